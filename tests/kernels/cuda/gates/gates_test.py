#!/usr/bin/env python3
"""Tests of the gates: each rule is broken once and must be found. Cubins are made here, byte by byte; no toolkit is needed."""
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "kernels/cuda/gates"))
import budgets  # noqa: E402
import cubin  # noqa: E402
import gates  # noqa: E402
import lint  # noqa: E402
import occupancy  # noqa: E402
import predict  # noqa: E402

HMMA, IMMA, LDGSTS, LDL, STL, NOP = 0x23C, 0x237, 0xFAE, 0x983, 0x387, 0x918


def make_cubin(name="K", registers=40, shared=0, threads=128, frame=0, opcodes=(), arch=87):
    """An ELF file with the sections that cubin.py reads."""
    code = b"".join(struct.pack("<QQ", 0xABC000 | op, 0) for op in (*opcodes, NOP))
    info = struct.pack("<BBHIII", 4, 0x05, 12, threads, 1, 1) + struct.pack("<BBH", 3, 0x1B, 128)
    frames = struct.pack("<BBHII", 4, 0x11, 8, 1, frame) + struct.pack("<BBHII", 4, 0x2F, 8, 1, registers)
    strings = b"\0" + name.encode() + b"\0"
    symbols = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0) + struct.pack("<IBBHQQ", 1, 2, 0, 1, 0, 0)
    parts = [("", 0, b"", 0, 0), (f".text.{name}", 1, code, 0, len(code)), (f".nv.info.{name}", 1, info, 0, len(info)),
             (f".nv.shared.{name}", 8, b"", 0, shared), (".nv.info", 1, frames, 0, len(frames)),
             (".symtab", 2, symbols, 0, len(symbols)), (".strtab", 3, strings, 0, len(strings))]
    names, offsets = b"", []
    for section in [p[0] for p in parts] + [".shstrtab"]:
        offsets.append(len(names))
        names += section.encode() + b"\0"
    parts.append((".shstrtab", 3, names, 0, len(names)))
    body, headers = b"", b""
    for (_, kind, content, info_field, section_size), name_at in zip(parts, offsets):
        headers += struct.pack("<IIQQQQIIQQ", name_at, kind, 0, 0, 64 + len(body), section_size, 0, info_field, 1, 0)
        body += content
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 64 + len(body),
                                                          arch << 8 | 0x6000004, 64, 0, 0, 64, len(parts), len(parts) - 1)
    return head + body + headers


def kernel(arch="87", **what):
    [k] = cubin.read_cubin(make_cubin(arch=int(arch.rstrip("af")), **what), "file", arch)
    return k


class CubinTest(unittest.TestCase):
    def test_reads_what_it_is_made_of(self):
        k = kernel(registers=77, shared=2048, threads=256, opcodes=(HMMA, HMMA, LDGSTS))
        self.assertEqual((k.registers, k.static_shared, k.threads, k.stack), (77, 2048, 256, 0))
        self.assertEqual({n: c for n, c in k.opcodes.items() if c}, {"HMMA": 2, "LDGSTS": 1})

    def test_the_system_s_shared_memory_is_not_the_kernel_s(self):
        self.assertEqual(kernel("90a", shared=1024 + 256).static_shared, 256)
        self.assertEqual(kernel("87", shared=256).static_shared, 256)

    def test_refuses_other_files_and_kernels_without_a_bound(self):
        with self.assertRaises(cubin.BadCubin):
            cubin.read_cubin(b"PK\x03\x04" + bytes(100), "file", "87")
        with self.assertRaises(cubin.BadCubin):
            cubin.read_cubin(make_cubin().replace(struct.pack("<BBH", 4, 5, 12), struct.pack("<BBH", 4, 6, 12)), "file", "87")

    def test_short_names(self):
        for demangled, short in (
                ("dunlin::kernels::cuda::(anonymous namespace)::Trial<4, true>(float const*, int)", "Trial<4, true>"),
                ("void dunlin::kernels::cuda::_GLOBAL__N__1a_4_t_cu_33::Go<(dunlin::kernels::KvFormat)3>(int)", "Go<KvFormat 3>"),
                ("dunlin::kernels::cuda::Plain(float (*)(int), int)", "Plain")):
            self.assertEqual(cubin.shorten(demangled), short)


class OccupancyTest(unittest.TestCase):
    def test_by_hand(self):
        # 128 registers x 128 threads = 16384 of 65536.
        self.assertEqual(occupancy.blocks_per_sm("87", 128, 128, 0), 4)
        self.assertEqual(occupancy.blocks_per_sm("87", 129, 128, 0), 3)
        # 24 KiB and the system's one, of 100 and of 164 KiB.
        self.assertEqual(occupancy.blocks_per_sm("89", 32, 128, 24 * 1024), 4)
        self.assertEqual(occupancy.blocks_per_sm("87", 32, 128, 24 * 1024), 6)
        self.assertEqual(occupancy.blocks_per_sm("90a", 16, 1024, 0), 2)
        self.assertEqual(occupancy.blocks_per_sm("120a", 16, 32, 0), 24)
        self.assertEqual(occupancy.blocks_per_sm("89", 32, 128, 100 * 1024), 0)


class BudgetsTest(unittest.TestCase):
    """One kernel within its budget; each test breaks one thing."""
    GOOD = dict(registers=100, threads=128, opcodes=(HMMA,) * 16 + (LDGSTS,) * 4)

    def declarations(self, needs=("HMMA", "LDGSTS"), dynamic_shared=16384, name="K"):
        return [budgets.Declaration("file", re.compile(name), dynamic_shared, frozenset(needs))]

    def found(self, *kernels, declarations=None, sizes=None, compare=True, budget=None):
        declarations = self.declarations() if declarations is None else declarations
        rows = [{c: str(v) for c, v in budgets.budget_row(k, 16384).items()} for k in (budget or [kernel(**self.GOOD)])]
        return list(budgets.violations(kernels, sizes or {"87": 1000}, declarations, rows, [{"arch": "87", "bytes": "1000"}], compare))

    def assert_finds(self, text, found):
        self.assertTrue(any(text in line for line in found), f"{text!r} is not in {found}")

    def test_a_kernel_within_its_budget(self):
        self.assertEqual(self.found(kernel(**self.GOOD)), [])
        self.assertEqual(self.found(kernel(**self.GOOD | {"registers": 104})), [])

    def test_growth(self):
        self.assert_finds("109 registers", self.found(kernel(**self.GOOD | {"registers": 109})))

    def test_the_loss_of_a_block(self):
        # From 128 to 136 registers: within the slack, yet three blocks instead of four.
        found = self.found(kernel(**self.GOOD | {"registers": 136}), budget=[kernel(**self.GOOD | {"registers": 128})])
        self.assertEqual(found, ["file: K for sm_87: 3 blocks per SM, there were 4"])

    def test_stack_and_local_memory(self):
        self.assert_finds("8 bytes of stack", self.found(kernel(**self.GOOD | {"frame": 8})))
        for op in (LDL, STL):
            self.assert_finds("1 local loads", self.found(kernel(**self.GOOD | {"opcodes": self.GOOD["opcodes"] + (op,)})))

    def test_instructions(self):
        self.assert_finds("has no HMMA", self.found(kernel(**self.GOOD | {"opcodes": (LDGSTS,) * 4})))
        self.assert_finds("has 1 IMMA", self.found(kernel(**self.GOOD | {"opcodes": self.GOOD["opcodes"] + (IMMA,)})))
        self.assert_finds("32 HMMA, there were 16", self.found(kernel(**self.GOOD | {"opcodes": (HMMA,) * 32 + (LDGSTS,) * 4})))

    def test_declarations(self):
        self.assert_finds("declared.tsv has no line", self.found(kernel(**self.GOOD), declarations=[]))
        self.assert_finds("there is no such kernel",
                          self.found(kernel(**self.GOOD), declarations=self.declarations() + self.declarations(name="Gone")))
        self.assert_finds("does not fit", self.found(kernel(**self.GOOD), declarations=self.declarations(dynamic_shared=200 * 1024)))

    def test_rows_that_are_missing_stale_or_twice(self):
        self.assert_finds("budgets.tsv has no row", self.found(kernel(name="New", **self.GOOD), declarations=self.declarations(name="New|K")))
        self.assert_finds("the library has not", self.found(kernel(name="New", **self.GOOD), declarations=self.declarations(name="New|K")))
        self.assert_finds("two kernels", self.found(kernel(**self.GOOD), kernel(**self.GOOD)))

    def test_size(self):
        self.assert_finds("1101 bytes", self.found(kernel(**self.GOOD), sizes={"87": 1101}))
        self.assertEqual(self.found(kernel(**self.GOOD), sizes={"87": 1099}), [])

    def test_another_release_s_registers_are_not_compared(self):
        self.assertEqual(self.found(kernel(**self.GOOD | {"registers": 140}), compare=False), [])
        self.assert_finds("stack", self.found(kernel(**self.GOOD | {"frame": 8}), compare=False))

    def test_update_keeps_what_was_not_built(self):
        with tempfile.TemporaryDirectory() as scratch:
            rows, sizes = pathlib.Path(scratch) / "budgets.tsv", pathlib.Path(scratch) / "sizes.tsv"
            for arch in ("90a", "87"):
                budgets.update([kernel(arch, **self.GOOD)], {arch: 500}, self.declarations(), "13.0", rows, sizes)
            self.assertEqual([r["arch"] for r in budgets.read_rows(rows)], ["87", "90a"])
            self.assertEqual([r["arch"] for r in budgets.read_rows(sizes)], ["87", "90a"])
            self.assertEqual(budgets.read_release(rows), "13.0")
            self.assertEqual(
                list(budgets.violations([kernel(**self.GOOD)], {"87": 500}, self.declarations(), budgets.read_rows(rows),
                                        budgets.read_rows(sizes), True)), [])
            budgets.update([kernel(**self.GOOD)], {"87": 500}, self.declarations(), "13.9", rows, sizes)
            self.assertEqual([r["arch"] for r in budgets.read_rows(rows)], ["87"])


class LintTest(unittest.TestCase):
    def found(self, text, path="kernels/cuda/some.cu"):
        return list(lint.lint_text(path, text))

    def test_each_ban(self):
        for line in ('#include <cuda_fp8.h>', "__nv_fp8_e4m3 x;", '  asm("cvt.rn.f16x2.e4m3x2 %0, %1;");', "Kernel<<<1, 2>>>();"):
            self.assertTrue(self.found("int x;\n" + line), line)
            self.assertIn("kernels/cuda/some.cu:2:", self.found("int x;\n" + line)[0])

    def test_what_is_allowed(self):
        self.assertEqual(self.found("// asm and <<< and cuda_fp8.h in a comment\nint i = 1 << 3; /* asm\nasm */\n"), [])
        self.assertEqual(self.found('asm("mov.b32 %0, 1;");', "kernels/cuda/dev_ptx.h"), [])
        self.assertEqual(self.found("k<<<1, 2>>>();", "kernels/cuda/launch_cuda.h"), [])

    def test_the_conversion_needs_its_guard(self):
        text = 'asm("cvt.rn.f16x2.e4m3x2 %0, l;");'
        self.assertTrue(self.found(text, "kernels/cuda/dev_ptx.h"))
        guarded = f"{lint.GUARD}\n#if 1\n#endif\n{text}\n#endif\n"
        self.assertEqual(self.found(guarded, "kernels/cuda/dev_ptx.h"), [])
        self.assertTrue(self.found(guarded + text, "kernels/cuda/dev_ptx.h"))

    def test_the_tree(self):
        self.assertEqual(list(lint.lint_tree(gates.ROOT)), [])


class PredictTest(unittest.TestCase):
    def test_the_arithmetic(self):
        # 90 % of 4800 GB/s moves 4.32 MB in 1 us.
        self.assertAlmostEqual(predict.seconds(4.32e6, 1, 4800.0), 4e-6)
        self.assertAlmostEqual(predict.fraction(4.32e6, 1, 4800.0), 0.9e-6 / 4e-6)
        self.assertEqual(predict.bound(4.32e6, 1, 4800.0), "latency")
        self.assertEqual(predict.bound(432e6, 1, 4800.0), "memory")

    def test_the_file_in_the_tree_is_current(self):
        self.assertEqual(gates.PREDICTED.read_text(), predict.render(budgets.read_rows(gates.BUDGETS)))


class LinksTest(unittest.TestCase):
    def test_a_program_that_needs_more(self):
        with tempfile.TemporaryDirectory() as scratch:
            run = lambda *a: subprocess.run(a, cwd=scratch, check=True)
            pathlib.Path(scratch, "a.c").write_text("int f(void) { return 0; }")
            pathlib.Path(scratch, "b.c").write_text("int f(void); int main(void) { return f(); }")
            run("cc", "-shared", "-o", "libabsl_f.so", "a.c")
            run("cc", "-o", "needs", "b.c", "./libabsl_f.so")
            run("cc", "-o", "alone", "a.c", "b.c")
            self.assertEqual(gates.links(f"{scratch}/alone"), [])
            [line] = gates.links(f"{scratch}/needs")
            self.assertIn("libabsl_f.so", line)


class ToolkitTest(unittest.TestCase):
    """tools/lib/cuda_toolkit with compilers that only say their release; the last one it looks at is the cache's own."""

    def chosen(self, on_path=None, cudacxx=None):
        with tempfile.TemporaryDirectory() as scratch:
            root = pathlib.Path(scratch)

            def nvcc(folder, release):
                (root / folder).mkdir(parents=True)
                path = root / folder / "nvcc"
                path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
                path.chmod(0o755)
                return str(path)

            nvcc("cache/cuda-13.0/nvidia/cu13/bin", "13.0")
            env = {"HOME": scratch, "DUNLIN_CACHE": f"{scratch}/cache", "PATH": os.environ["PATH"]}
            if on_path:
                env["PATH"] = str(pathlib.Path(nvcc("path", on_path)).parent) + ":" + env["PATH"]
            if cudacxx:
                env["CUDACXX"] = nvcc("own", cudacxx)
            done = subprocess.run([gates.ROOT / "tools/lib/cuda_toolkit"], env=env, capture_output=True, text=True, check=True)
            nvcc_path = pathlib.Path(done.stdout.strip())
            return nvcc_path.relative_to(root).parts[0] if nvcc_path.is_relative_to(root) else "system", done.stderr

    def test_the_one_that_is_there(self):
        self.assertEqual(self.chosen(on_path="12.8")[0], "path")
        self.assertEqual(self.chosen(on_path="12.8", cudacxx="12.6")[0], "own")

    def test_one_that_is_too_old_is_passed_over_and_named(self):
        chosen, said = self.chosen(on_path="12.4", cudacxx="11.8")
        self.assertNotIn(chosen, ("path", "own"))
        self.assertIn("own/nvcc is CUDA 11.8", said)
        self.assertIn("path/nvcc is CUDA 12.4", said)


if __name__ == "__main__":
    unittest.main()
