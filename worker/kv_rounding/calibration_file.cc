#include "worker/kv_rounding/calibration_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace dunlin::worker {
namespace {

constexpr size_t kSampleBytes = 4096;                    // of each end of a tensor
constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 30;  // far above any model's

template <typename T>
uint64_t HashNumber(T value, uint64_t hash) {
  return HashBytes({reinterpret_cast<const char*>(&value), sizeof value}, hash);
}

absl::string_view AsText(std::span<const uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string CacheFolder() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg == '/')
    return absl::StrCat(xdg, "/dunlin");
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/')
    return absl::StrCat(home, "/.cache/dunlin");
  return "";
}

absl::Status WriteWhole(const std::string& path, const std::string& bytes) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  std::string temporary = absl::StrCat(path, ".XXXXXX");
  const int fd = mkstemp(temporary.data());
  const auto failed = [&] {
    return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
  };
  if (fd < 0) return failed();
  absl::Status status = absl::OkStatus();
  size_t done = 0;
  while (done < bytes.size() && status.ok()) {
    const ssize_t n = write(fd, bytes.data() + done, bytes.size() - done);
    if (n > 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      status = failed();
    }
  }
  fchmod(fd, 0644);
  if (close(fd) != 0 && status.ok()) status = failed();
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) status = failed();
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace

uint64_t ModelFingerprint(const model::ModelFile& file, const model::ModelConfig& config) {
  uint64_t hash = HashNumber(static_cast<uint64_t>(file.file_bytes()), kHashBegin);
  for (const int n : {config.num_layers, config.num_q_heads, config.num_kv_heads, config.head_dim, config.rope_dims,
                      config.sliding_window, static_cast<int>(config.rope_pairing)}) {
    hash = HashNumber(n, hash);
  }
  for (const float f : {config.rms_eps, config.attn_scale, config.rope_attn_factor, config.embedding_scale}) {
    hash = HashNumber(f, hash);
  }
  for (const double f : config.rope_inv_freq) hash = HashNumber(f, hash);
  for (const model::GgufTensor& t : file.gguf().tensors()) {
    hash = HashBytes(t.name, hash);
    hash = HashNumber(static_cast<int>(t.type), hash);
    for (const int64_t d : t.dims) hash = HashNumber(d, hash);
    const std::span<const uint8_t> stored = file.Stored(t);
    const size_t n = std::min(stored.size(), kSampleBytes);
    hash = HashBytes(AsText(stored.first(n)), hash);
    hash = HashBytes(AsText(stored.last(n)), hash);
  }
  return hash;
}

CalibrationFile::CalibrationFile(const std::string& model_path, uint64_t fingerprint) : fingerprint_(fingerprint) {
  paths_.push_back(absl::StrCat(model_path, ".dunlin-kv"));
  if (const std::string cache = CacheFolder(); !cache.empty()) {
    paths_.push_back(absl::StrFormat("%s/kv/%016x.dunlin-kv", cache, fingerprint));
  }
}

absl::StatusOr<KvCalibration> CalibrationFile::Load(const KvShape& shape) const {
  absl::Status status = absl::NotFoundError("no calibration yet");
  for (const std::string& path : paths_) {
    std::error_code error;
    const uintmax_t size = std::filesystem::file_size(path, error);
    if (error || size > kMaxFileBytes) continue;
    std::ifstream in(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    absl::StatusOr<KvCalibration> calibration = ParseKvCalibration(bytes, shape, fingerprint_);
    if (calibration.ok()) return calibration;
    status = absl::Status(calibration.status().code(), absl::StrCat(path, ": ", calibration.status().message()));
  }
  return status;
}

absl::StatusOr<std::string> CalibrationFile::Save(const KvCalibration& calibration) const {
  const std::string bytes = SerializeKvCalibration(calibration, fingerprint_);
  absl::Status status;
  for (const std::string& path : paths_) {
    status = WriteWhole(path, bytes);
    if (status.ok()) return path;
  }
  return status;
}

}  // namespace dunlin::worker
