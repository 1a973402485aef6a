"""What is left of decoding while another process keeps one core busy."""
import contextlib
import subprocess
import sys

import engines
import outputs
import table

PLAN = engines.Plan(prefill=[], depths=[0], batches=[])


@contextlib.contextmanager
def busy_process():
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(all_engines, repeat, progress):
    """{engine: {quiet, busy, kept}}, the two in turn."""
    case = outputs.decode_case(1)
    samples = {e.name: {"quiet": [], "busy": []} for e in all_engines}
    for r in range(repeat):
        for engine in all_engines:
            samples[engine.name]["quiet"] += engine.measure(PLAN)[case]
            with busy_process():
                samples[engine.name]["busy"] += engine.measure(PLAN)[case]
            progress(f"one busy foreign process, repeat {r + 1} of {repeat}: {engine.name}")
    rows = {}
    for name, s in samples.items():
        quiet, busy = table.summary(s["quiet"]), table.summary(s["busy"])
        rows[name] = {"quiet": quiet, "busy": busy, "kept": table.ratio(busy["median"], quiet["median"])}
    return rows


def text(rows):
    header = ["decode b1, tok/s", "quiet", "one busy foreign process", "kept"]
    return table.markdown(header, [[name, table.cell(r["quiet"]), table.cell(r["busy"]), f"{100 * r['kept']:.0f} %"]
                                   for name, r in rows.items()])
