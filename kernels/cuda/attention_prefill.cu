// The host side of prefill attention.
#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"

namespace dunlin::kernels::cuda {

void PrefillAttention(Device* device, const AttentionCallArgs& args, const DeviceBatch& batch,
                      const DevicePages& pages) {
  const AttentionShape& shape = args.shape;
  const PageLayout& layout = pages.layout;
  const char* unsupported = AttentionUnsupported(shape, layout);
  CHECK(unsupported == nullptr) << unsupported;
  PrefillArgs a;
  a.counts = batch.counts;
  a.sequences = batch.sequences;
  a.pages = batch.pages;
  a.slabs = SlabsOfLayer(pages, args.layer);
  a.num_q_heads = shape.num_q_heads;
  a.group = shape.num_q_heads / shape.num_kv_heads;
  a.pattern = shape.pattern();
  constexpr float kLog2E = 1.4426950408889634f;
  a.cap = args.soft_cap * kLog2E;
  a.score_factor = shape.scale * kLog2E * (args.soft_cap != 0.0f ? 2.0f / args.soft_cap : 1.0f);
  a.sink_logits = args.sink_logits;
  a.q = args.q;
  a.out = args.out;
  const PrefillBucket bucket{batch.max_rows, batch.max_sequences, shape.num_kv_heads, layout.k_format, layout.v_format};
  switch (shape.head_dim) {
    case 64:
      return LaunchPrefill64(device, bucket, a);
    case 128:
      return LaunchPrefill128(device, bucket, a);
    case 256:
      return LaunchPrefill256(device, bucket, a);
    default:
      CHECK(false) << "head_dim " << shape.head_dim;
  }
}

}  // namespace dunlin::kernels::cuda
