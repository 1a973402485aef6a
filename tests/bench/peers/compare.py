"""Our speed beside llama.cpp's and other builds', measured in turn on one machine with the same GGUF file.

  python3 tests/bench/peers/compare.py --bin build/release/bin [--model FILE] [--peer DIR --peer-flags "…"]…

Prints a table (Markdown) of medians with minimum and maximum; --json FILE keeps every figure. README.md says how it measures.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import build
import engines
import foreign
import served
import table

BASE = "llama.cpp Q4_1"
GROUPS = ["decode", "batch", "prefill", "foreign", "served"]


def progress(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def parse_arguments(argv):
    root = pathlib.Path(__file__).resolve().parents[3]
    model = build.default_cache().parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bin", type=pathlib.Path, default=root / "build/release/bin", help="the folder of our programs")
    p.add_argument("--model", type=pathlib.Path, default=model, help="a GGUF file (the figures' names assume Q4_1)")
    p.add_argument("--cache", type=pathlib.Path, default=build.default_cache(), help="where llama.cpp is built")
    p.add_argument("--llama-build", type=pathlib.Path, help="use these programs of llama.cpp instead of building them")
    p.add_argument("--peer", action="append", default=[], metavar="DIR", help="another build's programs (repeatable)")
    p.add_argument("--peer-flags", action="append", default=[], metavar="FLAGS",
                   help="the flags of the --peer at the same place, as its llama-bench spells them: \"-rtr 1 -thp 1\"")
    p.add_argument("--peer-name", action="append", default=[], metavar="NAME", help="its column's name")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--served-repeat", type=int, default=3, help="bursts of each served case")
    p.add_argument("--only", default=",".join(GROUPS), help="comma-separated: " + ", ".join(GROUPS))
    p.add_argument("--quick", action="store_true", help="one short repeat of few cases: shows that everything runs")
    p.add_argument("--json", type=pathlib.Path, help="every figure goes to this file")
    args = p.parse_args(argv)
    # Programs run in the cache's folder: some leave a log where they are started.
    args.bin, args.model, args.cache = args.bin.resolve(), args.model.resolve(), args.cache.resolve()
    args.llama_build = args.llama_build and args.llama_build.resolve()
    args.peer = [str(pathlib.Path(folder).resolve()) for folder in args.peer]
    args.json = args.json and args.json.resolve()
    args.only = args.only.split(",")
    unknown = [g for g in args.only if g not in GROUPS]
    if unknown:
        p.error(f"--only {unknown[0]}: one of {', '.join(GROUPS)}")
    if len(args.peer_flags) > len(args.peer) or len(args.peer_name) > len(args.peer):
        p.error("more --peer-flags or --peer-name than --peer")
    if args.quick:
        args.repeat = args.served_repeat = 1
    return args


def make_plan(only, quick):
    batches = ([8] if quick else [2, 4, 8, 16, 32, 64]) if "batch" in only else []
    depths = ([0] if quick else [0, 1024]) if "decode" in only else []
    return engines.Plan(prefill=[512] if "prefill" in only else [], depths=depths, batches=batches)


def make_engines(args):
    """(ours, peers). The first peer runs the same file as we do."""
    programs = args.llama_build or build.llama_cpp(args.cache, progress)
    q4_0 = build.as_q4_0(programs, args.model, args.cache)
    ours = engines.Ours(args.bin / "dunlin", args.model, args.threads)
    peers = [engines.Llama(BASE, programs, args.model, args.threads),
             engines.Llama("llama.cpp Q4_0", programs, q4_0, args.threads)]
    for i, folder in enumerate(args.peer):
        flags = args.peer_flags[i].split() if i < len(args.peer_flags) else []
        name = args.peer_name[i] if i < len(args.peer_name) else f"peer {i + 1}"
        peers.append(engines.Llama(name, folder, args.model, args.threads, flags))
    return ours, peers


def measure_engines(plan, ours, peers, repeat):
    """Ours before every peer and once more at the end of each repeat: a drift of the machine meets all of them."""
    rates = {e.name: {} for e in [ours, *peers]}
    for r in range(repeat):
        for engine in [e for p in peers for e in (ours, p)] + [ours]:
            begin = time.monotonic()
            try:
                engines.merge(rates[engine.name], engine.measure(plan))
            except (RuntimeError, ValueError, OSError) as error:
                progress(f"{engine.name} fails: {error}")
            progress(f"repeat {r + 1} of {repeat}: {engine.name}, {time.monotonic() - begin:.1f} s")
    return rates


def fractions_of(ours):
    median = lambda case, key: statistics.median(c[key] for c in ours.cells[case])
    return {case: (median(case, "read_fraction"), median(case, "int8_fraction")) for case in ours.cells}


def roof_of(ours):
    keys = ours.reports[0]["roof"]
    return {k: table.summary([r["roof"][k] for r in ours.reports]) for k in keys}


def print_conditions(ours):
    report, roof = ours.reports[-1], roof_of(ours)
    giga = lambda key: f"{roof[key]['median'] / 1e9:.1f} ({roof[key]['min'] / 1e9:.1f}-{roof[key]['max'] / 1e9:.1f})"
    print(f"{report['machine']}, {report['isa']}, {report['threads']} threads, {report['kv_cache_dtype']} KV pages "
          f"(peers: f16), loaded in {statistics.median(r['load_seconds'] for r in ours.reports):.2f} s, "
          f"peak RSS {max(r['peak_rss_bytes'] for r in ours.reports) / 1e6:.0f} MB")
    print(f"roof: {giga('read_bytes_per_second')} GB/s read over {report['weight_bytes'] / 1e6:.1f} MB of huge pages, "
          f"{giga('read_bytes_per_second_1gib')} over 1 GiB; {giga('int8_ops_per_second')} G int8 and "
          f"{giga('f32_ops_per_second')} G f32 multiply-adds/s\n")


def run_engine_level(args, plan, ours, peers, result):
    names = [ours.name] + [p.name for p in peers]
    rates = measure_engines(plan, ours, peers, args.repeat)
    rows = table.compare(plan.cases(), names, rates, fractions_of(ours), BASE)
    print_conditions(ours)
    print(table.engine_table(rows, names, BASE), flush=True)
    result["roof"], result["cases"], result["rates"] = roof_of(ours), rows, rates


def main(argv=None):
    args = parse_arguments(argv)
    begin = time.monotonic()
    ours, peers = make_engines(args)
    load = os.getloadavg()[0]
    if load > 0.5:
        progress(f"the machine is not quiet: load average {load:.1f}")
    args.cache.mkdir(parents=True, exist_ok=True)
    os.chdir(args.cache)
    result = {"model": str(args.model), "threads": args.threads, "repeat": args.repeat, "load_average": load}
    plan = make_plan(args.only, args.quick)
    if plan.cases():
        run_engine_level(args, plan, ours, peers, result)
    if "foreign" in args.only:
        rows = foreign.measure([ours, *peers], args.repeat, progress)
        print(foreign.text(rows), flush=True)
        result["foreign"] = rows
    if "served" in args.only:
        show = lambda row: print(served.text([row], ours.name, BASE), flush=True)
        rows = served.measure(args, ours, peers, progress, show)
        result["served"] = rows
    result["seconds"] = time.monotonic() - begin
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
