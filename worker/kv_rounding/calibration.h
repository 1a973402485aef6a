// What rounding K and V well needs to know of a model: the mean of its keys, how its queries weigh a key's error and
// its output matrices a value's, and how large each channel is. Measured once (calibrate.h), kept in a file
// (calibration_file.h), made into kernel tables at load (rounding_tables.h).
//
// The format of the file, little-endian: "DNLNKVC3", u64 fingerprint of the model, u32 layers, heads, head dim, tokens,
// then as f32 centre, k_metric, v_metric, then u64 FNV-1a of everything before.
// Thread-safety: plain data and pure functions.  Errors (Parse): kInvalidArgument for bytes that are not a calibration
// of this model and shape, saying what differs; hostile bytes never crash, and never allocate more than the shape's
// size. Source: ours.
#ifndef DUNLIN_WORKER_KV_ROUNDING_CALIBRATION_H_
#define DUNLIN_WORKER_KV_ROUNDING_CALIBRATION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::worker {

struct KvShape {
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;

  bool operator==(const KvShape&) const = default;
  size_t heads() const { return static_cast<size_t>(num_layers) * static_cast<size_t>(num_kv_heads); }
  size_t vectors() const { return heads() * static_cast<size_t>(head_dim); }
  // Values of a head's symmetric matrix: the rows of its upper triangle.
  size_t triangle() const { return static_cast<size_t>(head_dim) * static_cast<size_t>(head_dim + 1) / 2; }
};

struct KvCalibration {
  KvShape shape;
  uint32_t num_tokens = 0;      // measured over
  std::vector<float> centre;    // [layer][kv_head][dim] mean of K after RoPE
  std::vector<float> k_metric;  // [layer][kv_head][triangle] second moment of the group's queries after RoPE
  std::vector<float> v_metric;  // [layer][kv_head][triangle] sum over the group of Wo' Wo
};

// FNV-1a, 64 bits, going on from `hash`.
inline constexpr uint64_t kHashBegin = 0xCBF29CE484222325u;
uint64_t HashBytes(absl::string_view bytes, uint64_t hash = kHashBegin);

std::string SerializeKvCalibration(const KvCalibration& calibration, uint64_t fingerprint);
absl::StatusOr<KvCalibration> ParseKvCalibration(absl::string_view bytes, const KvShape& shape, uint64_t fingerprint);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_CALIBRATION_H_
