// A calibration as the tables that the append kernels read: centres of K, and for compensated rounding each head's
// order and feedback. Thread-safety: const-safe.  Owns: the tables; the views stay good when it is moved. Errors
// (Create): kInvalidArgument when a metric is not positive definite (a broken file). Cost: about head_dim^3 / 2
// multiply-adds per head for each of K and V.  Source: kernels/kv_rounding.h.
#ifndef DUNLIN_WORKER_KV_ROUNDING_ROUNDING_TABLES_H_
#define DUNLIN_WORKER_KV_ROUNDING_ROUNDING_TABLES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/kv_rounding.h"
#include "worker/kv_formats.h"
#include "worker/kv_rounding/calibration.h"

namespace dunlin::worker {

class KvRoundingTables {
 public:
  KvRoundingTables() = default;  // to nearest: no layers
  // mode: not kNearest. Formats of more than eight bits get no table.
  static absl::StatusOr<KvRoundingTables> Create(const KvCalibration& calibration, kernels::KvFormat k_format,
                                                 kernels::KvFormat v_format, KvRoundingMode mode);

  // Per layer; empty when everything is rounded to nearest.
  std::vector<kernels::KvRounding> Layers() const;
  // Pages agree only between equal ids; 0 = to nearest.
  uint64_t id() const { return id_; }

 private:
  struct Feedback {
    std::vector<uint16_t> order;  // [layer][kv_head][dim]
    std::vector<float> values;    // [layer][kv_head][KvFeedbackValues]
  };
  static absl::StatusOr<Feedback> MakeFeedback(const KvShape& shape, const std::vector<float>& metrics);

  KvShape shape_;
  std::vector<float> centre_;  // empty: K is not centred
  Feedback k_, v_;             // empty: not compensated
  uint64_t id_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_ROUNDING_TABLES_H_
