"""Bursts of concurrent streams against each engine's own server: `dunlin serve` over gRPC, llama-server over HTTP."""
import array
import dataclasses
import pathlib
import statistics
import sys

import servers
import table

IDS = pathlib.Path(__file__).resolve().parents[2] / "golden" / "ppl_tokens.u32"  # real text
PROMPT, TOKENS, SLOT_TOKENS = 128, 64, 768
COLD = 2000  # number of the first prompt of warming bursts; measured ones count from 0


@dataclasses.dataclass(frozen=True)
class Case:
    clients: int
    shared: int

    @property
    def name(self):
        start = f"{self.clients} streams, prompt {PROMPT}, {TOKENS} new"
        return f"{start}, behind {self.shared} shared, warm" if self.shared else start


def cases(quick):
    return [Case(8, 0)] if quick else [Case(8, 0), Case(32, 0), Case(32, 512)]


def read_ids():
    ids = array.array("I", IDS.read_bytes())
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def bursts(server, case, count, first):
    """A warming burst (of everybody where a shared beginning is to be in every cache), then the measured ones."""
    server.burst(case.clients if case.shared else 1, PROMPT, TOKENS, case.shared, COLD)
    return [server.burst(case.clients, PROMPT, TOKENS, case.shared, first + i * case.clients) for i in range(count)]


def measure_case(case, all_engines, repeat, progress):
    """{engine: [burst]}: each server in turn, once a repeat; a shared beginning is warmed once and measured in one go."""
    ids, samples, peak = read_ids(), {e.name: [] for e in all_engines}, {}
    rounds, count = (1, min(repeat, 3)) if case.shared else (repeat, 1)
    for r in range(rounds):
        for engine in all_engines:
            try:
                with servers.server_of(engine, IDS, ids, case.clients, SLOT_TOKENS) as server:
                    samples[engine.name] += bursts(server, case, count, r * count * case.clients)
                    peak[engine.name] = max(peak.get(engine.name, 0), server.peak_rss_mib())
            except (RuntimeError, OSError, ValueError) as error:
                progress(f"{engine.name} fails: {error}")
                continue
            progress(f"{case.name}, repeat {r + 1} of {rounds}: {engine.name}, "
                     f"{samples[engine.name][-1]['tokens_per_second']:.0f} tok/s")
    return samples, peak


def engine_level(ours, clients):
    """Tokens a second of the same burst without a server: its prompts, then all sequences decoding together."""
    cells, _ = ours.bench_cells(["--prefill", PROMPT, "--decode", TOKENS, "--batch", clients, "--depth", PROMPT])
    prefill, decode = cells["prefill"], cells["decode"]
    seconds = clients * PROMPT / prefill["tokens_per_second"] + clients * TOKENS / decode["tokens_per_second"]
    return clients * TOKENS / seconds


def summarize(samples, peak):
    rows = {}
    for name, taken in samples.items():
        if not taken:
            continue
        middle = lambda get, s=taken: statistics.median(get(b) for b in s)
        rows[name] = {"tokens_per_second": table.summary([b["tokens_per_second"] for b in taken]),
                      "ttft_p50_ms": middle(lambda b: b["ttft_ms"]["p50"]), "ttft_p99_ms": middle(lambda b: b["ttft_ms"]["p99"]),
                      "itl_p50_ms": middle(lambda b: b["itl_ms"]["p50"]), "itl_p99_ms": middle(lambda b: b["itl_ms"]["p99"]),
                      "peak_rss_mib": peak[name], "client_cpu_seconds": middle(lambda b: b["client_cpu_seconds"])}
    return rows


def measure(args, ours, peers, progress, done):
    """done(row) is called after each case: a server that hangs in a later one costs no figures."""
    # The twice quantised file is a peer of the engine-level table alone: its server is the same program.
    competitors = [ours] + [p for p in peers if p.model == ours.model]
    rows = []
    for case in cases(args.quick):
        # Other builds' servers can take minutes for the shared case; llama.cpp's own is the yardstick there.
        taking_part = competitors[:2] if case.shared else competitors
        samples, peak = measure_case(case, taking_part, args.served_repeat, progress)
        row = {"case": case.name, "servers": summarize(samples, peak)}
        if not case.shared:
            row["engine_level"] = statistics.median(engine_level(ours, case.clients) for _ in range(args.served_repeat))
        rows.append(row)
        done(row)
    return rows


def text(rows, ours, base):
    header = ["served", "server", "tok/s, median (min-max)", "ours is", "TTFT p50 / p99 ms", "ITL p50 / p99 ms", "VmHWM MiB",
              "client CPU s"]
    body = []
    for row in rows:
        mine = row["servers"].get(ours)
        for name, s in row["servers"].items():
            times = "" if name == ours or mine is None else \
                f"{mine['tokens_per_second']['median'] / s['tokens_per_second']['median']:.2f}x" + \
                (f", TTFT 1/{s['ttft_p50_ms'] / mine['ttft_p50_ms']:.1f}" if name == base else "")
            if name == ours and "engine_level" in row:
                times = f"{s['tokens_per_second']['median'] / row['engine_level']:.2f}x its engine level"
            body.append([row["case"], name, table.cell(s["tokens_per_second"]), times,
                         f"{s['ttft_p50_ms']:.0f} / {s['ttft_p99_ms']:.0f}", f"{s['itl_p50_ms']:.1f} / {s['itl_p99_ms']:.1f}",
                         f"{s['peak_rss_mib']:.0f}", f"{s['client_cpu_seconds']:.2f}"])
    return table.markdown(header, body)
