"""What a kernel may cost, per architecture, and whether the built library keeps to it.

declared.tsv says, by hand, what nobody can read from a cubin: a kernel's dynamic shared memory, and which of the watched
instructions it is meant to have (no other may appear). budgets.tsv and sizes.tsv hold what the last accepted build had;
`gates.py update` writes both. They are of one nvcc release: another one's registers are not comparable.
"""
import csv
import dataclasses
import re

import occupancy

WATCHED = ("HMMA", "IMMA", "LDGSTS")
REGISTER_SLACK = 8
COUNT_SLACK = 0.25  # of a watched instruction's count
SIZE_SLACK = 0.10
COLUMNS = ("file", "kernel", "arch", "registers", "static_shared", "dynamic_shared", "threads", "blocks_per_sm", *WATCHED)


@dataclasses.dataclass(frozen=True)
class Declaration:
    file: str
    kernel: re.Pattern
    dynamic_shared: int
    needs: frozenset  # of WATCHED


def read_rows(path):
    if not path.exists():
        return []
    with open(path, newline="") as f:
        return list(csv.DictReader((line for line in f if not line.startswith("#")), delimiter="\t"))


def read_release(path):
    """The nvcc release of a budgets file: "13.0"; "" where there is none."""
    if not path.exists():
        return ""
    match = re.match(r"# nvcc (\S+)", path.read_text())
    return match.group(1) if match else ""


def read_declarations(path):
    out = []
    for row in read_rows(path):
        needs = frozenset() if row["needs"] == "-" else frozenset(row["needs"].split(","))
        unknown = needs - set(WATCHED)
        if unknown:
            raise SystemExit(f"{path.name}: {row['kernel']} needs {', '.join(sorted(unknown))}; known are {', '.join(WATCHED)}")
        out.append(Declaration(row["file"], re.compile(row["kernel"]), int(row["dynamic_shared"]), needs))
    return out


def declaration_of(kernel, declarations):
    """The first that names the kernel; None: nothing does."""
    for d in declarations:
        if d.file == kernel.file and d.kernel.fullmatch(kernel.name):
            return d
    return None


def budget_row(kernel, dynamic_shared):
    blocks = occupancy.blocks_per_sm(kernel.arch, kernel.registers, kernel.threads, kernel.static_shared + dynamic_shared)
    return {"file": kernel.file, "kernel": kernel.name, "arch": kernel.arch, "registers": kernel.registers,
            "static_shared": kernel.static_shared, "dynamic_shared": dynamic_shared, "threads": kernel.threads,
            "blocks_per_sm": blocks, **{op: kernel.opcodes[op] for op in WATCHED}}


def absolute_violations(kernel, declaration):
    """What holds whatever the last build was."""
    where = f"{kernel.file}: {kernel.name} for sm_{kernel.arch}"
    local = kernel.opcodes["LDL"] + kernel.opcodes["STL"]
    if kernel.stack or local:
        yield f"{where}: {kernel.stack} bytes of stack and {local} local loads and stores; none are allowed"
    if declaration is None:
        yield f"{where}: declared.tsv has no line for it"
        return
    for op in WATCHED:
        if op in declaration.needs and not kernel.opcodes[op]:
            yield f"{where}: has no {op}, which declared.tsv says it needs"
        if op not in declaration.needs and kernel.opcodes[op]:
            yield f"{where}: has {kernel.opcodes[op]} {op}, which declared.tsv does not mention"
    if budget_row(kernel, declaration.dynamic_shared)["blocks_per_sm"] == 0:
        yield f"{where}: does not fit on an SM"


def growth_violations(row, old):
    """What the last accepted build had and this one has not."""
    where = f"{row['file']}: {row['kernel']} for sm_{row['arch']}"
    if old is None:
        yield f"{where}: budgets.tsv has no row for it (gates.py update)"
        return
    if row["registers"] > int(old["registers"]) + REGISTER_SLACK:
        yield f"{where}: {row['registers']} registers, {old['registers']} + {REGISTER_SLACK} are allowed"
    if row["blocks_per_sm"] < int(old["blocks_per_sm"]):
        yield f"{where}: {row['blocks_per_sm']} blocks per SM, there were {old['blocks_per_sm']}"
    for op in WATCHED:
        was = int(old[op])
        if abs(row[op] - was) > COUNT_SLACK * was:
            yield f"{where}: {row[op]} {op}, there were {was}"


def violations(kernels, sizes, declarations, old_rows, old_sizes, compare):
    """Every broken rule, one line each. compare: the old rows are of the same nvcc release."""
    seen = set()
    old = {(r["file"], r["kernel"], r["arch"]): r for r in old_rows}
    for kernel in kernels:
        key = (kernel.file, kernel.name, kernel.arch)
        if key in seen:
            yield f"{kernel.file}: two kernels are called {kernel.name}; their budgets need a name each"
        seen.add(key)
        declaration = declaration_of(kernel, declarations)
        yield from absolute_violations(kernel, declaration)
        if compare and declaration is not None:
            yield from growth_violations(budget_row(kernel, declaration.dynamic_shared), old.get(key))
    for d in declarations:
        if not any(declaration_of(k, [d]) for k in kernels):
            yield f"{d.file}: declared.tsv names {d.kernel.pattern}, and there is no such kernel"
    if not compare:
        return
    for file, name, arch in sorted(set(old) - seen):
        if arch in sizes:
            yield f"{file}: budgets.tsv has {name} for sm_{arch}, the library has not (gates.py update)"
    allowed = {r["arch"]: int(r["bytes"]) * (1 + SIZE_SLACK) for r in old_sizes}
    for arch, size in sizes.items():
        if arch not in allowed:
            yield f"sizes.tsv has no row for sm_{arch} (gates.py update)"
        elif size > allowed[arch]:
            yield f"sm_{arch}: {size} bytes of machine code, {allowed[arch]:.0f} are allowed"


def write(path, release, columns, rows):
    with open(path, "w", newline="") as f:
        f.write(f"# nvcc {release}\n")
        writer = csv.DictWriter(f, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def arch_order(arch):
    return int(arch.rstrip("af"))


def update(kernels, sizes, declarations, release, budgets_path, sizes_path):
    """Rewrites the rows of the architectures in this build; those of others stay if they are of the same release."""
    same = read_release(budgets_path) == release
    rows = [r for r in read_rows(budgets_path) if r["arch"] not in sizes] if same else []
    kept_sizes = [r for r in read_rows(sizes_path) if r["arch"] not in sizes] if same else []
    for kernel in kernels:
        declaration = declaration_of(kernel, declarations)
        if declaration is not None:
            rows.append(budget_row(kernel, declaration.dynamic_shared))
    rows.sort(key=lambda r: (r["file"], r["kernel"], arch_order(r["arch"])))
    write(budgets_path, release, COLUMNS, rows)
    kept_sizes += [{"arch": a, "bytes": b} for a, b in sizes.items()]
    write(sizes_path, release, ("arch", "bytes"), sorted(kept_sizes, key=lambda r: arch_order(r["arch"])))
