"""Runs the whole-server tests: real processes, the default model, clients that share no code with the server.

  python3 tests/integration/run.py --bin build/release/bin [--model FILE] [--only PATTERN]

Needs nothing but Python to start: gRPC for Python is installed into a private environment in the cache, ghz and grpcurl are built
with Go where Go is present; what is missing is a counted skip with its reason.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ["grpcio==1.85.1", "grpcio-tools==1.85.1", "grpcio-health-checking==1.85.1", "grpcio-status==1.85.1"]


def ensure_environment(cache):
    """Re-executes this script inside an environment that has gRPC for Python; returns the reason when there is none."""
    if os.environ.get("DUNLIN_TEST_VENV") == sys.prefix:
        return None
    venv = cache / "venv"
    python = venv / "bin" / "python"
    marker = venv / "ready"
    if not marker.exists() or marker.read_text() != "\n".join(PACKAGES):
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True, capture_output=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES],
                           check=True, capture_output=True, timeout=600)
            marker.write_text("\n".join(PACKAGES))
        except (subprocess.SubprocessError, OSError) as error:
            return f"gRPC for Python could not be installed: {error}"
    os.environ["DUNLIN_TEST_VENV"] = str(venv)
    os.execv(str(python), [str(python), *sys.argv])


def generate_stubs(out):
    from grpc_tools import protoc
    proto = ROOT / "proto"
    files = ["dunlin/v1/inference.proto", "dunlin/v1/control.proto", "google/rpc/error_details.proto", "google/rpc/status.proto"]
    out.mkdir(parents=True, exist_ok=True)
    include = pathlib.Path(sys.modules["grpc_tools"].__file__).parent / "_proto"
    code = protoc.main(["protoc", f"-I{proto}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    if code != 0:
        sys.exit("the .proto files do not compile for Python")
    sys.path.insert(0, str(out))


class TallyResult(unittest.TextTestResult):
    """Writes one line per test for the tally of tools/test."""
    tally = None

    def _row(self, test, outcome, reason=""):
        if self.tally:
            with open(self.tally, "a", encoding="utf-8") as f:
                f.write(f"server\t{test.id().split('.', 1)[-1]}\t{outcome}\t{' '.join(str(reason).split())[:300]}\n")

    def addSuccess(self, test):
        super().addSuccess(test)
        self._row(test, "passed")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._row(test, "failed", err[1])

    def addError(self, test, err):
        super().addError(test, err)
        self._row(test, "failed", err[1])

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._row(test, "skipped", reason)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    default_cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dunlin"
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache)
    parser.add_argument("--model", type=pathlib.Path, default=None)
    parser.add_argument("--tally", default=None)
    parser.add_argument("--only", default=None, help="run only tests whose name contains this")
    args = parser.parse_args()

    reason = ensure_environment(args.cache)
    if reason:
        print(reason)
        if args.tally:
            with open(args.tally, "a", encoding="utf-8") as f:
                f.write(f"server\tall server tests\tskipped\t{reason}\n")
        return 0

    sys.path.insert(0, str(HERE))
    generate_stubs(args.cache / "stubs")
    import harness
    harness.BIN = args.bin.resolve()
    harness.CACHE = args.cache
    harness.MODEL = args.model or args.cache / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    loader = unittest.TestLoader()
    if args.only:
        loader.testNamePatterns = [f"*{args.only}*"]
    suite = loader.discover(str(HERE), pattern="*_test.py")
    TallyResult.tally = args.tally
    result = unittest.TextTestRunner(verbosity=2, resultclass=TallyResult, failfast=False).run(suite)
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
