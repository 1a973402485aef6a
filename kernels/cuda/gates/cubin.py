"""Reads what ptxas left in a cubin: a kernel's registers, shared memory, stack, launch bound and instructions.

A cubin is an ELF file. A kernel K has the sections .text.K (16 bytes an instruction; the low 12 bits of its first word are the
opcode, the same from sm_80 to sm_120), .nv.info.K (attributes) and, where it has any, .nv.shared.K. Nothing is disassembled.
"""
import collections
import dataclasses
import pathlib
import re
import struct
import subprocess
import tempfile

# Checked against nvdisasm 13.2 for sm_87, 90a, 100a and 120a.
OPCODES = {0x23C: "HMMA", 0x237: "IMMA", 0xFAE: "LDGSTS", 0x983: "LDL", 0x387: "STL", 0x83B: "LDSM", 0xB1D: "BAR"}
RESERVED_SHARED = 1024  # of every block, by the system; part of .nv.shared from sm_90 on
FORMAT_SIZED = 4  # an attribute with a payload
ATTR_MAX_THREADS, ATTR_FRAME_SIZE, ATTR_REGISTERS = 0x05, 0x11, 0x2F  # the latter two: pairs of (symbol, value)


@dataclasses.dataclass(frozen=True)
class Kernel:
    file: str  # the source without its suffix
    name: str  # demangled, without namespaces and parameters
    arch: str  # "87", "90a"
    registers: int
    static_shared: int
    threads: int  # the most of a block, from the launch bound
    stack: int
    opcodes: dict  # name -> count
    code_bytes: int


class BadCubin(Exception):
    pass


def sections(data):
    """Yields (name, header, content) of an ELF64 file."""
    if data[:4] != b"\x7fELF" or data[4] != 2:
        raise BadCubin("not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names_at = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
    names = headers[names_at][4]
    for h in headers:
        name = data[names + h[0] : data.index(b"\0", names + h[0])].decode()
        nobits = h[1] == 8
        yield name, h, b"" if nobits else data[h[4] : h[4] + h[5]]


def attributes(content):
    """Yields (attribute, payload) of an .nv.info section."""
    at = 0
    while at + 4 <= len(content):
        form, attribute, size = struct.unpack_from("<BBH", content, at)
        at += 4
        if form == FORMAT_SIZED:
            yield attribute, content[at : at + size]
            at += size


def count_opcodes(code):
    counts = collections.Counter(word & 0xFFF for (word, _) in struct.iter_unpack("<QQ", code))
    return {name: counts[number] for number, name in OPCODES.items()}


def arch_number(data):
    return struct.unpack_from("<I", data, 48)[0] >> 8 & 0xFF


def read_cubin(data, file, arch):
    """The kernels of one cubin, with mangled names."""
    content = {}
    shared_bytes = {}
    for name, header, body in sections(data):
        content[name] = body
        if name.startswith(".nv.shared."):
            shared_bytes[name[11:]] = header[5]
    of_symbol = symbol_attributes(content)
    reserved = RESERVED_SHARED if arch_number(data) >= 90 else 0
    kernels = []
    for section, code in content.items():
        if not section.startswith(".text."):
            continue
        name = section[6:]
        bound = dict(attributes(content.get(f".nv.info.{name}", b""))).get(ATTR_MAX_THREADS)
        if bound is None:
            raise BadCubin(f"{name} has no launch bound: DUNLIN_KERNEL gives one")
        if (name, ATTR_REGISTERS) not in of_symbol:
            raise BadCubin(f"{name} does not say how many registers it has")
        kernels.append(Kernel(
            file=file, name=name, arch=arch, registers=of_symbol[name, ATTR_REGISTERS],
            static_shared=max(0, shared_bytes.get(name, 0) - reserved), threads=struct.unpack_from("<I", bound)[0],
            stack=of_symbol.get((name, ATTR_FRAME_SIZE), 0), opcodes=count_opcodes(code), code_bytes=len(code)))
    return kernels


def symbol_attributes(content):
    """(symbol's name, attribute) -> value, of the file's own .nv.info."""
    strings, symbols = content.get(".strtab", b""), content.get(".symtab", b"")
    out = {}
    for attribute, payload in attributes(content.get(".nv.info", b"")):
        if len(payload) != 8:
            continue
        symbol, value = struct.unpack("<II", payload)
        (at,) = struct.unpack_from("<I", symbols, 24 * symbol)
        out[strings[at : strings.index(b"\0", at)].decode(), attribute] = value
    return out


def short_names(mangled):
    """Mangled -> what a reader calls them: template arguments kept, namespaces and parameters gone."""
    done = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True)
    return dict(zip(mangled, (shorten(line) for line in done.stdout.splitlines())))


def shorten(demangled):
    name = re.sub(r"\(anonymous namespace\)::|_GLOBAL__N__\w+::", "", demangled)
    name = re.sub(r"\b(?:\w+::)+", "", name)
    name = re.sub(r"\((\w+)\)(\d)", r"\1 \2", name).replace("> >", ">>")  # an enumerator: "(Kind)3"
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    return name.removeprefix("void ").strip()


def read_library(library, cuobjdump):
    """The kernels of every cubin in a static library, and the bytes of its cubins per architecture."""
    kernels, sizes = [], collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        objects = pathlib.Path(scratch)
        subprocess.run(["ar", "x", str(pathlib.Path(library).resolve())], cwd=objects, check=True)
        for obj in sorted(objects.glob("*.cu.o")):
            file = obj.name.removesuffix(".cu.o")
            into = objects / file
            into.mkdir()
            subprocess.run([cuobjdump, "--extract-elf", "all", str(obj)], cwd=into, capture_output=True, check=False)
            for path in sorted(into.glob("*.cubin")):
                arch = re.search(r"\.sm_(\w+)\.cubin$", path.name).group(1)
                data = path.read_bytes()
                sizes[arch] += len(data)
                kernels += read_cubin(data, file, arch)
    names = short_names(sorted({k.name for k in kernels})) if kernels else {}
    return [dataclasses.replace(k, name=names[k.name]) for k in kernels], dict(sizes)
