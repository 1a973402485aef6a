// Queries, keys and values between their products and attention: bias is in already; head norms, RoPE, rounding of K
// and V into the row's slot of its page, and page moves. One warp per (row, head). Thread-safety, errors: as runtime.h.
// Pointers: device memory.  The bytes of a slot are those that AppendToken (kv_rounding.h) writes for the same floats.
// Rows beyond counts->num_rows are left alone. Cost: q, k, v once, TokenLayerBytes() written; latency-bound in decode.
// Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_APPEND_H_
#define DUNLIN_KERNELS_CUDA_APPEND_H_

#include <cstdint>

#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/kv_rounding.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cuda {

struct AppendArgs {
  AttentionShape shape;           // num_q_heads, num_kv_heads, head_dim
  float* q = nullptr;             // [max_rows, num_q_heads * head_dim], normed and rotated in place
  const float* k = nullptr;       // [max_rows, num_kv_heads * head_dim]
  const float* v = nullptr;       // same
  const float* q_norm = nullptr;  // [head_dim] or nullptr
  const float* k_norm = nullptr;
  float eps = 0.0f;
  RopeTable rope;       // its cos and sin: device memory
  KvRounding rounding;  // its pointers: device memory
  int layer = 0;
  uint32_t* saturated = nullptr;  // [1] += values that the page format could not hold
};
// head_dim: a multiple of 16, at most kMaxRoundedDim. Pages: E4M3, INT8 or F16, without key bounds. Every pointer but
// order's is 16-byte aligned.
void RotateAndAppend(Device* device, const AppendArgs& args, const DeviceBatch& batch, const DevicePages& pages);

// Page to page on the device, page_bytes each. from, to: [num_moves] page ids on the device; no page is both.
void CopyPages(Device* device, const DevicePages& pages, const int32_t* from, const int32_t* to, int num_moves);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_APPEND_H_
