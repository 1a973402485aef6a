"""The programs compared: which commands measure which cases, and what each build's own dialect of the flags is."""
import dataclasses
import json
import pathlib
import subprocess

import outputs

BATCH_TOKENS = 32   # decoded per sequence of a batch
DEPTH_TOKENS = 64   # decoded behind a deep context
PLAIN_TOKENS = 128  # decoded from an empty context
COMMAND_LIMIT_S = 600
# Flags that llama-bench writes with 0 or 1 and the other programs without.
BARE = {"-rtr", "-thp", "-mqkv", "-muge", "-fmoe", "-rcache", "-ger"}


@dataclasses.dataclass
class Plan:
    """What a repeat measures."""
    prefill: list
    depths: list   # of one sequence; 0 = from an empty context
    batches: list

    def cases(self):
        cases = [outputs.decode_case(1, d) for d in self.depths]
        cases += [outputs.decode_case(b) for b in self.batches]
        return cases + [outputs.prefill_case(p) for p in self.prefill]


def run(command, limit_s=COMMAND_LIMIT_S):
    """What the command prints. Some builds print their table on the error stream, among the log."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, errors="replace", timeout=limit_s)
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return done.stdout, done.stderr


def merge(into, rates):
    for case, values in rates.items():
        into.setdefault(case, []).extend(values)


class Ours:
    name = "dunlin"

    def __init__(self, binary, model, threads):
        self.binary, self.model, self.threads = binary, model, threads
        self.reports = []
        self.cells = {}  # case -> every cell measured

    def _bench(self, flags, batches):
        text = run([self.binary, "bench", "--model", self.model, "--threads", self.threads, "--repeat", 1, "--json", *flags])[0]
        rates, cells, report = outputs.ours(text, batches)
        self.reports.append(report)
        for case, cell in cells.items():
            self.cells.setdefault(case, []).append(cell)
        return rates

    def bench_cells(self, flags):
        """The cells of a run outside the table, by their test; and the run's report."""
        report = json.loads(run([self.binary, "bench", "--model", self.model, "--threads", self.threads, "--repeat", 1, "--json",
                                 *flags])[0])
        return {cell["test"]: cell for cell in report["cells"]}, report

    def measure(self, plan):
        rates = {}
        comma = lambda values: ",".join(map(str, values))
        prefill = ["--prefill", comma(plan.prefill)] if plan.prefill else ["--prefill", 0]
        for depth in plan.depths:
            tokens = PLAIN_TOKENS if depth == 0 else DEPTH_TOKENS
            merge(rates, self._bench(["--decode", tokens, "--batch", 1, "--depth", depth, *prefill], False))
            prefill = ["--prefill", 0]
        if plan.batches:
            flags = ["--decode", BATCH_TOKENS, "--batch", comma(plan.batches), "--depth", outputs.BATCH_PROMPT]
            merge(rates, self._bench(flags + prefill, True))
        elif prefill[1]:
            merge(rates, self._bench(["--decode", 0, *prefill], False))
        return rates


class Llama:
    """llama.cpp, or a build that descends from it."""

    def __init__(self, name, bin_dir, model, threads, flags=()):
        self.name, self.bin, self.model, self.threads = name, pathlib.Path(bin_dir), model, threads
        self.flags = list(flags)
        help_text = subprocess.run([str(self.bin / "llama-bench"), "--help"], capture_output=True, text=True, check=False)
        text = help_text.stdout + help_text.stderr
        self.format = "jsonl" if "jsonl" in text else "json"
        self.depth_flag = "-d" if "--n-depth" in text else "-gp"
        if "-fa" not in self.flags:
            self.flags += ["-fa", "1"]

    def bare_flags(self):
        """The same flags as llama-batched-bench and llama-server spell them."""
        flags, i = [], 0
        while i < len(self.flags):
            flag = self.flags[i]
            value = self.flags[i + 1] if i + 1 < len(self.flags) else None
            if flag in BARE and value in ("0", "1"):
                flags += [flag] if value == "1" else []
                i += 2
            elif flag == "-fa":
                flags += ["-fa", "on" if value in ("1", "on") else "off"]
                i += 2
            else:
                flags.append(flag)
                i += 1
        return flags

    def _bench(self, flags):
        command = [self.bin / "llama-bench", "-m", self.model, "-t", self.threads, "-r", 1, "-o", self.format, *self.flags]
        return outputs.llama_bench(run(command + flags)[0])

    def measure(self, plan):
        rates = {}
        prompts = ",".join(map(str, plan.prefill)) or "0"
        for depth in plan.depths:
            if depth == 0:
                merge(rates, self._bench(["-p", prompts, "-n", PLAIN_TOKENS]))
                prompts = "0"
            elif self.depth_flag == "-d":
                merge(rates, self._bench(["-p", 0, "-n", DEPTH_TOKENS, "-d", depth]))
            else:
                merge(rates, self._bench(["-p", 0, "-n", 0, "-gp", f"{depth},{DEPTH_TOKENS}"]))
        if prompts != "0":
            merge(rates, self._bench(["-p", prompts, "-n", 0]))
        if plan.batches:
            context = max(plan.batches) * (outputs.BATCH_PROMPT + BATCH_TOKENS)
            merge(rates, outputs.batched_bench("\n".join(run(
                [self.bin / "llama-batched-bench", "-m", self.model, "-t", self.threads, "-tb", self.threads, "-c", context,
                 "-npp", outputs.BATCH_PROMPT, "-ntg", BATCH_TOKENS, "-npl", ",".join(map(str, plan.batches)),
                 *self.bare_flags()]))))
        return rates
