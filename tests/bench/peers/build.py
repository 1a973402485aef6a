"""Builds llama.cpp's benchmark programs from the source package llama-cpp-python on PyPI, once, into a cache directory."""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

PACKAGE = "llama-cpp-python==0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TARGETS = ["llama-bench", "llama-batched-bench", "llama-server", "llama-quantize"]
FLAGS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DGGML_OPENMP=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF",
         "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_COMMON=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON",
         "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_WEBUI=OFF", "-DLLAMA_BUILD_UI=OFF"]


def default_cache():
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dunlin" / "peers"


def download(cache):
    """The package's archive, checked."""
    folder = cache / "download"
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not found:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                        "--no-binary=llama-cpp-python", "--dest", str(folder), PACKAGE], check=False)
        found = sorted(folder.glob("llama_cpp_python-*.tar.gz"))
    if not found:
        raise SystemExit(f"pip did not download the source of {PACKAGE}")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{found[0]} is not the pinned archive: sha256 {digest}, expected {SHA256}")
    return found[0]


def llama_cpp(cache, progress):
    """The directory of the built programs."""
    programs = cache / "build" / "bin"
    if all((programs / t).exists() for t in TARGETS):
        return programs
    archive = download(cache)
    source = cache / "source"
    shutil.rmtree(source, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(source, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(source)
    vendored = next(source.glob("*/vendor/llama.cpp"))
    progress(f"building llama.cpp in {cache} (6 to 16 minutes on two cores, once)")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    log = cache / "build.log"
    with open(log, "w", encoding="utf-8") as out:
        for command in (["cmake", "-S", str(vendored), "-B", str(cache / "build"), *generator, *FLAGS],
                        ["cmake", "--build", str(cache / "build"), f"-j{os.cpu_count()}", "--target", *TARGETS]):
            if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode != 0:
                raise SystemExit(f"the build failed; see {log}")
    return programs


def as_q4_0(programs, model, cache):
    """The model in llama.cpp's fastest 4-bit format. Twice quantised: its speed counts, its answers do not."""
    with open(model, "rb") as f:
        name = hashlib.file_digest(f, "sha256").hexdigest()[:16] if hasattr(hashlib, "file_digest") \
            else hashlib.sha256(f.read()).hexdigest()[:16]
    out = cache / f"{name}.Q4_0.gguf"
    if not out.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        done = subprocess.run([str(programs / "llama-quantize"), "--allow-requantize", str(model), str(part), "Q4_0"],
                              capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            raise SystemExit(f"llama-quantize failed:\n{done.stderr[-2000:]}")
        part.rename(out)
    return out
