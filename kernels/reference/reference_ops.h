// Every op of ops.h in plain loops: the oracle that fast backends are tested against, and a backend of its own for
// golden runs. Weights are dequantised to f32; products are summed in double; attention reads K and V back from the
// pages, value by value. Thread-safety: as ops.h says.  Owns: a copy of each weight in f32 (four bytes per parameter).
// Cost: about 100 times slower than the fast path; rows and outputs are spread over std::threads only to make golden
// runs bearable (no result depends on it).  Source: ours, from the formulas in ops.h.
#ifndef DUNLIN_KERNELS_REFERENCE_REFERENCE_OPS_H_
#define DUNLIN_KERNELS_REFERENCE_REFERENCE_OPS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.h"

namespace dunlin::kernels {

class ReferenceOps {
 public:
  struct Matrix {
    int rows = 0;
    int cols = 0;
    uint64_t file_bytes = 0;    // what Traffic counts
    std::vector<float> values;  // [rows, cols]
  };

  explicit ReferenceOps(int threads = 1) : threads_(threads) {}

  Matrix Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes);
  void Reserve(const OpLimits& limits) { limits_ = limits; }

  Traffic Embed(const Matrix& table, const BatchView& batch, float scale, float* x);
  Traffic AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape, const BatchView& batch,
                         const PagedKvView& kv, const float* x, float* q, int64_t* saturated);
  Traffic PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                         const float* q, float* out);
  Traffic ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual);
  Traffic GatedFfn(const Matrix& gate, const Matrix& up, const float* norm, float eps, FfnActivation activation,
                   int num_rows, const float* x, float* out);
  Traffic Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows, const float* x,
                 float* logits);
  Traffic Sample(const float* logits, int vocab, std::span<const SampleParams> params, std::span<SampleResult> results);

 private:
  int threads_;
  OpLimits limits_;
};

static_assert(TransformerOps<ReferenceOps>);

// The pieces, for tests of their own.
// out[i] = x[i] * norm[i] / sqrt(mean(x^2) + eps)
void RmsNorm(const float* x, const float* norm, int n, float eps, float* out);
// Rotates one head in place by position's angles.
void ApplyRope(const RopeTable& rope, int position, float* head);
float Activate(FfnActivation activation, float x);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_REFERENCE_REFERENCE_OPS_H_
