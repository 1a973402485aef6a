"""Rules of the CUDA sources that no compiler checks.

cuda_fp8.h's conversions are a branchy software path on sm_87 (728 instruction slots for 16 values against 80 of ours), and
PTX's need sm_89: E4M3 is converted by dev.h alone. Inline PTX and launches have one file each, so that the emulator runs
everything else as it is.
"""
import re

SUFFIXES = {".cu", ".cuh", ".h", ".cc"}
# (what is banned, why, the only file that may have it)
RULES = (
    (re.compile(r"cuda_fp8|__nv_fp8|__nv_cvt_\w*fp8"), "the FP8 conversions of cuda_fp8.h are slow on sm_87: dev::E4M3ToHalf", None),
    (re.compile(r"\bcvt\.[\w.]*e[45]m[23]"), "E4M3 is converted by dev::E4M3ToHalf alone", "kernels/cuda/dev_ptx.h"),
    (re.compile(r"\b(?:asm|__asm__)\b"), "PTX belongs to dev_ptx.h: the emulator cannot run it", "kernels/cuda/dev_ptx.h"),
    (re.compile(r"<<<"), "DUNLIN_LAUNCH starts kernels: the emulator has no <<<", "kernels/cuda/launch_cuda.h"),
)
# Switches stacks, for which C++ has no words.
EXEMPT = {"kernels/cuda/emulator/fiber.cc"}
GUARD = "#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890"
CONVERSION = RULES[1][0]


def strip_comments(text):
    """Comments become spaces, so that lines keep their numbers."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group(0)) if m.group(0).startswith("/") else m.group(0)
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', blank, text, flags=re.DOTALL)


def lint_text(path, text):
    """Yields "path:line: why". path: relative to the tree."""
    if path in EXEMPT:
        return
    guarded = 0  # depth of #if inside the guard of sm_89
    for number, line in enumerate(strip_comments(text).splitlines(), 1):
        directive = line.strip()
        if guarded:
            guarded += directive.startswith("#if") - directive.startswith("#endif")
        elif directive == GUARD:
            guarded = 1
        for pattern, why, home in RULES:
            if pattern.search(line) and path != home:
                yield f"{path}:{number}: {why}"
        if path == RULES[1][2] and CONVERSION.search(line) and not guarded:
            yield f"{path}:{number}: this conversion needs sm_89: put it under {GUARD}"


def lint_tree(root):
    for folder in ("kernels/cuda", "tests/device", "tests/kernels/cuda"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                yield from lint_text(path.relative_to(root).as_posix(), path.read_text())
