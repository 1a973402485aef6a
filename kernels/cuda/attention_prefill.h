// Prefill attention between its host function and its kernels, which are compiled a head_dim a file.
// Thread-safety, errors: as runtime.h.  Borrows: every pointer (device memory).  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_H_
#define DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention_mask.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

struct PrefillParams {
  const BatchCounts* counts = nullptr;
  const DeviceSequence* sequences = nullptr;
  const int32_t* page_table = nullptr;
  // The layer's part of page 0 (its K slabs first), and what follows from there.
  const uint8_t* layer = nullptr;
  size_t page_bytes = 0;
  size_t v_offset = 0;
  size_t k_scale_offset = 0;
  size_t v_scale_offset = 0;
  int32_t page_tokens = 0;
  int32_t num_q_heads = 0;
  int32_t group = 0;  // q heads per kv head
  AttentionPattern pattern;
  float scale = 0.0f;
  float soft_cap = 0.0f;
  const float* sink_logits = nullptr;
  const float* q = nullptr;
  float* out = nullptr;
};

// What the grid is sized for.
struct PrefillBucket {
  int32_t max_rows = 0;
  int32_t max_sequences = 0;
  int32_t num_kv_heads = 0;
};

void LaunchPrefill64(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket, const PrefillParams& params);
void LaunchPrefill128(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket, const PrefillParams& params);
void LaunchPrefill256(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket, const PrefillParams& params);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_H_
