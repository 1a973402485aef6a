// Prefill attention between its host function and its kernels, which are compiled a head_dim a file.
// Thread-safety, errors: as runtime.h.  Borrows: every pointer (device memory).  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_H_
#define DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_H_

#include <cstdint>

#include "kernels/attention_mask.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

struct PrefillArgs {
  const BatchCounts* counts = nullptr;
  const DeviceSequence* sequences = nullptr;
  const int32_t* pages = nullptr;
  LayerSlabs slabs;
  int32_t num_q_heads = 0;
  int32_t group = 0;  // q heads per kv head
  AttentionPattern pattern;
  float score_factor = 0.0f;  // to base 2; with a cap: to the argument of the exponential in tanh
  float cap = 0.0f;           // in base 2; 0: none
  const float* sink_logits = nullptr;
  const float* q = nullptr;
  float* out = nullptr;
};

// What the grid is sized for, and which kernel.
struct PrefillBucket {
  int32_t max_rows = 0;
  int32_t max_sequences = 0;
  int32_t num_kv_heads = 0;
  KvFormat k_format = KvFormat::kE4M3;
  KvFormat v_format = KvFormat::kE4M3;
};

void LaunchPrefill64(Device* device, const PrefillBucket& bucket, const PrefillArgs& args);
void LaunchPrefill128(Device* device, const PrefillBucket& bucket, const PrefillArgs& args);
void LaunchPrefill256(Device* device, const PrefillBucket& bucket, const PrefillArgs& args);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_H_
