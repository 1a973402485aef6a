#include "worker/kv_rounding/calibration.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

static_assert(std::endian::native == std::endian::little, "the file's order is the memory's");

namespace dunlin::worker {
namespace {

// The digit counts up with every change of the format or of how its numbers are measured.
constexpr absl::string_view kMagic = "DNLNKVC3";
constexpr size_t kHeaderBytes = 8 + 8 + 4 * 4;

// The arrays in the order of the file, with their sizes.
template <typename Calibration, typename Fn>
void ForEachArray(Calibration& c, Fn fn) {
  fn(c.centre, c.shape.vectors());
  fn(c.k_metric, c.shape.heads() * c.shape.triangle());
  fn(c.v_metric, c.shape.heads() * c.shape.triangle());
}

template <typename T>
void Append(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <typename T>
T Take(absl::string_view* in) {
  T value;
  std::memcpy(&value, in->data(), sizeof value);
  in->remove_prefix(sizeof value);
  return value;
}

}  // namespace

uint64_t HashBytes(absl::string_view bytes, uint64_t hash) {
  for (const char c : bytes) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash;
}

std::string SerializeKvCalibration(const KvCalibration& calibration, uint64_t fingerprint) {
  std::string out(kMagic);
  Append(fingerprint, &out);
  Append(static_cast<uint32_t>(calibration.shape.num_layers), &out);
  Append(static_cast<uint32_t>(calibration.shape.num_kv_heads), &out);
  Append(static_cast<uint32_t>(calibration.shape.head_dim), &out);
  Append(calibration.num_tokens, &out);
  ForEachArray(calibration, [&](const std::vector<float>& values, size_t) {
    out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  });
  Append(HashBytes(out), &out);
  return out;
}

absl::StatusOr<KvCalibration> ParseKvCalibration(absl::string_view bytes, const KvShape& shape, uint64_t fingerprint) {
  KvCalibration c;
  c.shape = shape;
  size_t size = kHeaderBytes + sizeof(uint64_t);
  ForEachArray(c, [&](const std::vector<float>&, size_t n) { size += n * sizeof(float); });
  if (bytes.size() < kHeaderBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("not a KV calibration");
  }
  absl::string_view in = bytes.substr(kMagic.size());
  if (const auto found = Take<uint64_t>(&in); found != fingerprint) {
    return absl::InvalidArgumentError(
        absl::StrFormat("of another model: fingerprint %016x, not %016x", found, fingerprint));
  }
  const auto layers = Take<uint32_t>(&in), heads = Take<uint32_t>(&in), dim = Take<uint32_t>(&in);
  c.num_tokens = Take<uint32_t>(&in);
  if (layers != static_cast<uint32_t>(shape.num_layers) || heads != static_cast<uint32_t>(shape.num_kv_heads) ||
      dim != static_cast<uint32_t>(shape.head_dim)) {
    return absl::InvalidArgumentError(absl::StrCat("of ", layers, " layers, ", heads, " KV heads of ", dim, "; ",
                                                   shape.num_layers, ", ", shape.num_kv_heads, " of ", shape.head_dim,
                                                   " are wanted"));
  }
  if (bytes.size() != size) {
    return absl::InvalidArgumentError(absl::StrCat("has ", bytes.size(), " bytes; ", size, " are wanted"));
  }
  bool finite = true;
  ForEachArray(c, [&](std::vector<float>& values, size_t n) {
    values.resize(n);
    std::memcpy(values.data(), in.data(), n * sizeof(float));
    in.remove_prefix(n * sizeof(float));
    for (const float v : values) finite = finite && std::isfinite(v);
  });
  if (Take<uint64_t>(&in) != HashBytes(bytes.substr(0, bytes.size() - sizeof(uint64_t)))) {
    return absl::InvalidArgumentError("its checksum does not match");
  }
  if (!finite) return absl::InvalidArgumentError("has a number that is not finite");
  return c;
}

}  // namespace dunlin::worker
