"""Reads what benchmark programs print: ours, and llama-bench and llama-batched-bench of the builds compared with it.

Every reader returns {case: [tokens per second, one a sample]}; a case is "prefill 512", "decode b1", "decode b1 @1024" or
"decode b8". Decode cases of one sequence start from an empty context unless they name a depth; batches start behind a
short prompt of their own (BATCH_PROMPT tokens), for every engine.
"""
import json
import math

BATCH_PROMPT = 64


def prefill_case(tokens):
    return f"prefill {tokens}"


def decode_case(batch, depth=0):
    return f"decode b{batch}" if depth == 0 else f"decode b{batch} @{depth}"


def ours(text, batches=False):
    """`dunlin bench --json`: (cases, {case: cell}, the whole report). batches: cells of a batch stand behind BATCH_PROMPT."""
    report = json.loads(text)
    rates, cells = {}, {}
    for cell in report["cells"]:
        if cell["test"] == "prefill":
            case = prefill_case(cell["tokens"])
        else:
            case = decode_case(cell["batch"], 0 if batches and cell["depth"] == BATCH_PROMPT else cell["depth"])
        rates.setdefault(case, []).append(cell["tokens_per_second"])
        cells[case] = cell
    return rates, cells, report


def rows_of(text):
    """JSON objects of a JSON array, or of JSON lines among other lines."""
    begin = text.find("[\n")
    if begin >= 0 and text[:begin].strip() == "":
        return json.loads(text)
    rows = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("{") and line.endswith("}"):
            rows.append(json.loads(line))
    return rows


def llama_bench(text):
    """-o jsonl, or -o json of builds that name no depth: there a row with a prompt and generated tokens ("tg64@pp1024") is
    decoding behind that prompt."""
    rates = {}
    for row in rows_of(text):
        prompt, generated, depth = row["n_prompt"], row["n_gen"], row.get("n_depth", 0)
        if generated == 0:
            case = prefill_case(prompt) if depth == 0 else f"prefill {prompt} @{depth}"
        elif prompt == 0:
            case = decode_case(1, depth)
        elif "@" in row.get("test", ""):
            case = decode_case(1, prompt)
        else:
            raise ValueError(f"llama-bench measured a prompt and decoding together: {row}")
        rates.setdefault(case, []).extend(row["samples_ts"])
    return rates


def batched_bench(text):
    """llama-batched-bench, as JSON lines or as its table: tokens decoded per second of all sequences together."""
    rates = {}
    for row in rows_of(text):
        rates.setdefault(decode_case(row["pl"]), []).append(row["speed_tg"])
    if rates:
        return rates
    columns = None
    for line in text.splitlines():
        fields = [f.strip() for f in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            continue
        if "S_TG t/s" in fields:
            columns = (fields.index("B"), fields.index("S_TG t/s"))
        elif columns and not fields[0].startswith("-"):
            rates.setdefault(decode_case(int(fields[columns[0]])), []).append(float(fields[columns[1]]))
    return rates


def prompt_ids(source, prompt, shared, number):
    """As `dunlin bench load` cuts them: the shared beginning, then a part of the source that depends on the number."""
    if len(source) < shared + prompt:
        raise ValueError(f"prompts of {shared + prompt} tokens from a source of {len(source)}")
    begin = shared + number * 131 % (len(source) - shared - prompt + 1)
    return source[:shared] + source[begin:begin + prompt]


def is_token_event(line):
    """A line of llama-server's event stream that brings a token; the last event, which says "stop", brings none."""
    return line.startswith(b"data: {") and b'"stop":true' not in line and b'"content"' in line


def tokens_of_last_event(line):
    """How many tokens the stream brought, from the event that says "stop"; None of any other line."""
    if line.startswith(b"data: {") and b'"stop":true' in line:
        return json.loads(line[len(b"data: "):])["tokens_predicted"]
    return None


def percentile(values, part):
    """The smallest value that at least this part of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(part * len(ordered)), 1) - 1] if ordered else 0.0


def burst_summary(begin, records, seconds, cpu_seconds):
    """The fields of `dunlin bench load --json` that the table uses. records: for each request the times at
    which text came, and its tokens."""
    first = [1e3 * (times[0] - begin) for times, _ in records]
    between = [1e3 * (b - a) for times, _ in records for a, b in zip(times, times[1:])]
    tokens = sum(count for _, count in records)
    return {"requests": len(records), "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds,
            "ttft_ms": {"p50": percentile(first, 0.5), "p99": percentile(first, 0.99)},
            "itl_ms": {"p50": percentile(between, 0.5), "p99": percentile(between, 0.99)}, "client_cpu_seconds": cpu_seconds}
