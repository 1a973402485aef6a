// Gathers what a KvCalibration holds: keys and queries token by token, and the output matrices.
// Thread-safety: one thread.  Owns: its sums.  Errors: CHECK on shapes.
// Cost: head_dim^2 / 2 multiply-adds per query head and token, and per query head and row of an output matrix.
// Source: ours.
#ifndef DUNLIN_WORKER_KV_ROUNDING_STATISTICS_H_
#define DUNLIN_WORKER_KV_ROUNDING_STATISTICS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "model/gguf/gguf_file.h"
#include "worker/kv_rounding/calibration.h"

namespace dunlin::worker {

class KvStatistics {
 public:
  KvStatistics(const KvShape& shape, int num_q_heads);

  // One token of one layer, after RoPE. q: [num_q_heads, head_dim]; k: [num_kv_heads, head_dim].
  void AddToken(int layer, const float* q, const float* k);
  // o: [hidden, num_q_heads * head_dim]. Once per layer.
  void AddOutputMatrix(int layer, const model::GgufTensor& o);

  KvCalibration Finish() const;

 private:
  // sum [head_dim, head_dim] += x x', upper triangle.
  void AddOuter(const float* x, double* sum);

  KvShape shape_;
  int num_q_heads_;
  std::vector<uint32_t> tokens_;             // per layer
  std::vector<double> k_sum_;                // [layer][kv_head][dim]
  std::vector<double> k_metric_, v_metric_;  // [layer][kv_head][dim][dim], upper triangles
  std::vector<double> row_;                  // [dim]
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_STATISTICS_H_
