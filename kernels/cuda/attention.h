// Paged attention on the device over pages of SlabOrder::kDevice.
//
// Two kernels. Decode: one row at a time, its keys split into parts of a length that follows from the row's context
// alone, each part a work item of (row, kv head, part) for a block of a fixed grid; a second kernel merges the parts'
// (max, sum, vector) in order. Prefill: tiles of a sequence's rows. Which row goes where follows from its sequence's
// num_rows alone (kPrefillRows).  PlanAttention makes the work list on the device once per step, for all layers: no
// host decision follows from a length, so the launches can be recorded.
//
// K and V are what the pages store, times their scales; q is rounded to f16; sums are f32; p is rounded to f16 relative
// to the largest so far. Formats: E4M3/E4M3, INT8/INT8, INT8/E4M3, F16/F16 (K/V). head_dim 64, 128, 256. Group
// (q heads per kv head) 1 to 16. page_tokens a multiple of 16.
//
// Thread-safety, errors: as runtime.h; CHECK on a shape outside these (AttentionSupported says which).
// Cost: the pages that the rows see, once per (row, kv head) in decode and once per tile of rows in prefill.
// Source: FlashAttention-2 (arXiv 2307.08691), Flash-Decoding; swapped operands as LMDeploy TurboMind; layout ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_H_
#define DUNLIN_KERNELS_CUDA_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cuda {

// Sequences of at least this many rows in the step are prefill's.
inline constexpr int kPrefillRows = 8;

// nullptr: supported; else what is not, for a message.
const char* AttentionUnsupported(const AttentionShape& shape, const PageLayout& layout);

// Scratch on the device for up to these. A plan holds for one window and number of sinks: a model whose layers differ
// has a workspace, and a plan a step, for each kind.
struct AttentionLimits {
  int max_rows = 0;
  int max_decode_rows = 0;  // of sequences of less than kPrefillRows rows, in a step; 0: max_rows
  int max_context = 0;
  int max_parts = 0;  // of a row's keys, at most 64; 0: as many as a device is worth
  AttentionShape shape;
};
size_t AttentionWorkspaceBytes(const Device& device, const AttentionLimits& limits);

struct AttentionCallArgs {
  AttentionShape shape;                // top_pages 0
  float soft_cap = 0.0f;               // 0: none; else s = soft_cap * tanh(s / soft_cap) before the mask
  const float* sink_logits = nullptr;  // [num_q_heads] a logit that joins every softmax's sum and no value; or nullptr
  int layer = 0;
  const float* q = nullptr;      // f32 [max_rows, num_q_heads * head_dim]
  float* out = nullptr;          // same
  uint8_t* workspace = nullptr;  // AttentionWorkspaceBytes, 256-byte aligned
};

// Once per step, before the layers.
void PlanAttention(Device* device, const AttentionLimits& limits, const DeviceBatch& batch, const DevicePages& pages,
                   uint8_t* workspace);
void DecodeAttention(Device* device, const AttentionCallArgs& args, const AttentionLimits& limits,
                     const DeviceBatch& batch, const DevicePages& pages);
// The rows of sequences of kPrefillRows rows or more; a step that has none (the host knows) need not call it.
void PrefillAttention(Device* device, const AttentionCallArgs& args, const DeviceBatch& batch,
                      const DevicePages& pages);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_H_
