// Gathers what a KvCalibration holds: keys and queries token by token, and the output matrices. Keys and queries are
// taken as they were before RoPE and, at the end, turned to positions all over a range, one for each of the two:
// The keys' mean is taken off keys at any position, and must not be wrong at those that the text did not reach: over a
// long range a channel pair that turns slowly keeps its mean, one that turns often loses it. The queries' moment is a
// matter of direction within each pair, of which a long range leaves less to use: a shorter one serves the positions
// within it better, and those far beyond hardly.
// Thread-safety: one thread.  Owns: its sums; borrows the rope table.  Errors: CHECK on shapes.
// Cost: head_dim^2 / 2 multiply-adds per query head and token, and per query head and row of an output matrix; Finish:
// head_dim^2 per position.  Source: ours.
#ifndef DUNLIN_WORKER_KV_ROUNDING_STATISTICS_H_
#define DUNLIN_WORKER_KV_ROUNDING_STATISTICS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "model/gguf/gguf.h"
#include "worker/kv_rounding/calibration.h"

namespace dunlin::worker {

class KvStatistics {
 public:
  // The result stands for positions below these; rope has the angles of both ranges and of the tokens.
  struct Ranges {
    int centre = 0;
    int metric = 0;
  };
  KvStatistics(const KvShape& shape, int num_q_heads, const kernels::RopeTable& rope, const Ranges& ranges);

  // One token of one layer, after RoPE. q: [num_q_heads, head_dim]; k: [num_kv_heads, head_dim].
  void AddToken(int layer, int position, const float* q, const float* k);
  // o: [hidden, num_q_heads * head_dim]; blocks: its bytes. Once per layer.
  void AddOutputMatrix(int layer, const model::GgufTensor& o, std::span<const uint8_t> blocks);

  KvCalibration Finish() const;

 private:
  // sum [head_dim, head_dim] += x x', upper triangle. x: [head_dim].
  void AddOuter(const double* x, double* sum) const;
  // Turns x [head_dim] back by position's angles.
  void TurnBack(int position, double* x) const;

  KvShape shape_;
  int num_q_heads_;
  kernels::RopeTable rope_;
  Ranges ranges_;
  std::vector<uint32_t> tokens_;             // per layer
  std::vector<double> k_sum_;                // [layer][kv_head][dim]
  std::vector<double> k_metric_, v_metric_;  // [layer][kv_head][dim][dim], upper triangles
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_STATISTICS_H_
