#!/usr/bin/env python3
"""Static gates of the CUDA kernels: what can be proved about them where there is no GPU.

  gates.py check LIBRARY --cuobjdump P --nvcc V   budgets, instructions, size of the built library
  gates.py update LIBRARY --cuobjdump P --nvcc V  accepts what the library has as the new budgets, and predicts anew
  gates.py predict [--check]                      writes PREDICTED.md from the budgets; --check: is it up to date?
  gates.py lint                                   the sources' own rules
  gates.py links PROGRAM                          the program needs no library but the system's

Exit status 1 and a line per finding where a rule is broken. Standard library only; c++filt, ar and readelf are binutils'.
"""
import argparse
import pathlib
import re
import subprocess
import sys

import budgets
import cubin
import lint
import predict

CUDA = pathlib.Path(__file__).resolve().parent.parent
ROOT = CUDA.parent.parent
BUDGETS, SIZES, DECLARED, PREDICTED = (CUDA / n for n in ("budgets.tsv", "sizes.tsv", "declared.tsv", "PREDICTED.md"))
# The C library's, which every Linux machine has, and the compiler's own two.
SYSTEM_LIBRARIES = re.compile(r"(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)|ld-linux[\w-]*)\.so\.\d+$")


def needed(program):
    out = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", out)


def links(program):
    return [f"{pathlib.Path(program).name} needs {n}: it must run where there is only a driver"
            for n in needed(program) if not SYSTEM_LIBRARIES.fullmatch(n)]


def release_of(version):
    return ".".join(version.split(".")[:2])


def check(args):
    kernels, sizes = cubin.read_library(args.library, args.cuobjdump)
    if not kernels:
        return ["the library has no kernels"]
    release = budgets.read_release(BUDGETS)
    compare = release == release_of(args.nvcc)
    if not compare:
        print(f"budgets.tsv is of nvcc {release}, this is {args.nvcc}: registers and sizes are not compared")
    found = list(budgets.violations(kernels, sizes, budgets.read_declarations(DECLARED), budgets.read_rows(BUDGETS),
                                    budgets.read_rows(SIZES), compare))
    archs = ", ".join(f"sm_{a}: {b >> 10} KiB" for a, b in sorted(sizes.items(), key=lambda s: budgets.arch_order(s[0])))
    print(f"{len(kernels)} kernels in machine code ({archs})")
    return found


def update(args):
    kernels, sizes = cubin.read_library(args.library, args.cuobjdump)
    declarations = budgets.read_declarations(DECLARED)
    budgets.update(kernels, sizes, declarations, release_of(args.nvcc), BUDGETS, SIZES)
    PREDICTED.write_text(predict.render(budgets.read_rows(BUDGETS)))
    return [v for k in kernels for v in budgets.absolute_violations(k, budgets.declaration_of(k, declarations))]


def predicted(args):
    text = predict.render(budgets.read_rows(BUDGETS))
    if not args.check:
        PREDICTED.write_text(text)
        return []
    return [] if PREDICTED.exists() and PREDICTED.read_text() == text else ["PREDICTED.md is not what gates.py predict writes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("check", check), ("update", update)):
        p = commands.add_parser(name)
        p.add_argument("library")
        p.add_argument("--cuobjdump", required=True)
        p.add_argument("--nvcc", required=True, metavar="VERSION")
        p.set_defaults(run=run)
    p = commands.add_parser("predict")
    p.add_argument("--check", action="store_true")
    p.set_defaults(run=predicted)
    commands.add_parser("lint").set_defaults(run=lambda _: list(lint.lint_tree(ROOT)))
    p = commands.add_parser("links")
    p.add_argument("program")
    p.set_defaults(run=lambda a: links(a.program))
    args = parser.parse_args()
    found = args.run(args)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
