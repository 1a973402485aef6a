"""PREDICTED.md: what the compiler gave each kernel, and what memory bandwidth then predicts for two models' steps.

Nothing here is a measurement. The model has two constants, both stated in the text it writes; a device's own figures come from
`dunlin-device-tests --bench`.
"""
import budgets
import occupancy

STREAM = 0.90  # of the specified bandwidth, what a copy reaches: an H200 copies at 4.3 of 4.8 TB/s
FIXED_US = 3.0  # of a kernel in a graph: 1.3 us to start, the rest filling and draining the device; assumed
DEVICES = {"87": ("AGX Orin", 204.8), "89": ("L40S", 864.0), "90a": ("H200", 4800.0), "100a": ("B200", 8000.0),
           "120a": ("RTX 5090", 1792.0)}
PAGE_FORMAT_SCALES = 2  # bytes of a token's K and V scale per head, E4M3


class Model:
    def __init__(self, name, hidden, ffn, layers, q_heads, kv_heads, head_dim, vocab, weight_bits):
        self.name, self.hidden, self.ffn, self.layers = name, hidden, ffn, layers
        self.q_heads, self.kv_heads, self.head_dim, self.vocab = q_heads, kv_heads, head_dim, vocab
        self.weight_bits = weight_bits

    def matrix(self, rows, cols):
        return rows * cols * self.weight_bits / 8

    def kv_token(self):
        return self.kv_heads * (2 * self.head_dim + PAGE_FORMAT_SCALES)


# 4 bits and an f16 scale per 32; with an f16 minimum too where the file has one (Q4_1, Q4_K).
MODELS = (Model("SmolLM2-135M, Q4_1", 576, 1536, 30, 9, 3, 64, 49152, 5.0),
          Model("an 8B model (Llama 3.1), Q4_0", 4096, 14336, 32, 32, 8, 128, 128256, 4.5))
CONTEXT = 8192


def operations(m):
    """(what, source, kernels, bytes, the sum behind them) of one layer of a decode step at batch 1; then of the whole step's end."""
    q, kv = m.q_heads * m.head_dim, m.kv_heads * m.head_dim
    per = f"{m.weight_bits / 8:g} B"
    return (
        ("norm and round, four rows", "prepare", 4, 2 * m.hidden * 9 + (q + m.ffn) * 5, f"2 x {m.hidden} x 9 B + {q + m.ffn} x 5 B"),
        ("q, k, v", "products", 1, m.matrix(q + 2 * kv, m.hidden), f"{q + 2 * kv} x {m.hidden} x {per}"),
        ("rotate and append", "append", 1, (2 * q + 2 * kv) * 4 + m.kv_token(), f"{2 * q + 2 * kv} x 4 + {m.kv_token()} B"),
        (f"attention over {CONTEXT} tokens and its merge", "attention", 2, CONTEXT * m.kv_token(), f"{CONTEXT} x {m.kv_token()} B"),
        ("output projection", "products", 1, m.matrix(m.hidden, q), f"{m.hidden} x {q} x {per}"),
        ("gate and up", "products", 1, m.matrix(2 * m.ffn, m.hidden), f"2 x {m.ffn} x {m.hidden} x {per}"),
        ("down", "products", 1, m.matrix(m.hidden, m.ffn), f"{m.hidden} x {m.ffn} x {per}"),
        ("logits (once a step)", "products", 1, m.matrix(m.vocab, m.hidden), f"{m.vocab} x {m.hidden} x {per}"),
    )


def seconds(bytes_moved, kernels, bandwidth_gb):
    return bytes_moved / (STREAM * bandwidth_gb * 1e9) + kernels * FIXED_US * 1e-6


def fraction(bytes_moved, kernels, bandwidth_gb):
    return bytes_moved / (bandwidth_gb * 1e9) / seconds(bytes_moved, kernels, bandwidth_gb)


def bound(bytes_moved, kernels, bandwidth_gb):
    return "memory" if bytes_moved / (STREAM * bandwidth_gb * 1e9) > kernels * FIXED_US * 1e-6 else "latency"


def size(n):
    return f"{n / 1e6:.2f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def resources(rows):
    """One line a kernel: registers, shared memory and blocks per SM on each architecture."""
    archs = [a for a in DEVICES if any(r["arch"] == a for r in rows)]
    by = {(r["file"], r["kernel"], r["arch"]): r for r in rows}
    lines = []
    for file, kernel in sorted({(r["file"], r["kernel"]) for r in rows}):
        mine = [by.get((file, kernel, a)) for a in archs]
        some = next(r for r in mine if r)
        shared = int(some["static_shared"]) + int(some["dynamic_shared"])
        cells = []
        for a, r in zip(archs, mine):
            if r is None:
                cells.append("-")
                continue
            full = occupancy.sm_of(a).threads
            cells.append(f"{r['registers']} / {r['blocks_per_sm']} / {100 * int(r['blocks_per_sm']) * int(r['threads']) // full} %")
        lines.append((file, f"`{kernel}`", some["threads"], f"{shared / 1024:.1f}", *cells))
    return table(("file", "kernel", "threads", "shared KiB", *(f"sm_{a}" for a in archs)), lines)


def model_lines(m):
    ops = operations(m)
    yield f"### {m.name}"
    yield ""
    rows = []
    for what, file, kernels, n, arithmetic in ops:
        cells = [f"{100 * fraction(n, kernels, bw):.0f} % {bound(n, kernels, bw)}" for _, bw in DEVICES.values()]
        rows.append((what, file, f"{arithmetic} = {size(n)}", str(kernels), *cells))
    *layer, last = ops
    step = m.layers * sum(n for *_, n, _ in layer) + last[3]
    count = m.layers * sum(k for _, _, k, _, _ in layer) + last[2] + 2
    cells = [f"{100 * fraction(step, count, bw):.0f} %, {1e3 * seconds(step, count, bw):.2f} ms" for _, bw in DEVICES.values()]
    rows.append((f"**a whole step**, {m.layers} layers", "", f"{m.layers} x a layer + logits = {size(step)}", str(count), *cells))
    yield from table(("per layer, one row", "file", "bytes", "kernels",
                      *(f"{name} (sm_{a}), {bw:g} GB/s" for a, (name, bw) in DEVICES.items())), rows)
    yield ""


def render(rows):
    lines = [
        "# What the CUDA kernels should reach",
        "",
        "Written by `kernels/cuda/gates/gates.py predict`. **Everything under \"Predicted\" is predicted, nothing is measured**: a",
        "device's own figures are what `dunlin-device-tests --bench` prints there.",
        "",
        "## Resources",
        "",
        "From the compiled machine code (`budgets.tsv`): registers of a thread / blocks that an SM holds at once / the share of its",
        "threads. Dynamic shared memory as `declared.tsv` has it.",
        "",
        *resources(sorted(rows, key=lambda r: budgets.arch_order(r["arch"]))),
        "",
        "## Predicted",
        "",
        f"A decode step of one sequence at {CONTEXT} tokens of context, FP8 pages. Bytes are those that must move; activations between",
        "kernels stay in the L2 and are left out of the products. The time of an operation is",
        "",
        f"    bytes / ({STREAM:g} x specified bandwidth) + kernels x {FIXED_US:g} us",
        "",
        f"with {STREAM:g} what a plain copy reaches (an H200: 4.3 of 4.8 TB/s) and {FIXED_US:g} us what starting, filling and draining a kernel",
        "in a graph is assumed to cost. The percentage is bytes / specified bandwidth over that time; \"latency\" marks operations whose",
        "fixed cost is the larger part. So no entry can pass "
        f"{100 * STREAM:.0f} %, and short operations fall far below it: the remedy there is fewer",
        "kernels, not faster ones. The assumption holds where enough bytes are in flight, which the blocks per SM above bound.",
        "Prefill is bound by the tensor cores, not by memory: nothing is predicted for it.",
        "",
    ]
    for m in MODELS:
        lines += model_lines(m)
    return "\n".join(lines).rstrip() + "\n"
