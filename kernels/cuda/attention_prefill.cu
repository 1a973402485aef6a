// The host side of prefill attention.
#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"

namespace dunlin::kernels::cuda {

void PrefillAttention(Device* device, const AttentionCallArgs& args, const DeviceBatch& batch,
                      const DevicePages& pages) {
  const AttentionShape& shape = args.shape;
  const PageLayout& layout = pages.layout;
  CHECK(shape.num_kv_heads == layout.num_kv_heads && shape.head_dim == layout.head_dim && shape.top_pages == 0 &&
        layout.order == SlabOrder::kDevice && layout.page_tokens % 16 == 0)
      << "pages of another shape than the attention's";
  CHECK(shape.num_q_heads % shape.num_kv_heads == 0) << shape.num_q_heads << ' ' << shape.num_kv_heads;
  PrefillParams p;
  p.counts = batch.counts;
  p.sequences = batch.sequences;
  p.page_table = batch.pages;
  p.layer = pages.base + layout.LayerOffset(args.layer);
  p.page_bytes = layout.page_bytes;
  p.v_offset = layout.v_offset;
  p.k_scale_offset = layout.k_scale_offset;
  p.v_scale_offset = layout.v_scale_offset;
  p.page_tokens = layout.page_tokens;
  p.num_q_heads = shape.num_q_heads;
  p.group = shape.num_q_heads / shape.num_kv_heads;
  p.pattern = shape.pattern();
  p.scale = shape.scale;
  p.soft_cap = args.soft_cap;
  p.sink_logits = args.sink_logits;
  p.q = args.q;
  p.out = args.out;
  const PrefillBucket bucket{batch.max_rows, batch.max_sequences, shape.num_kv_heads};
  switch (shape.head_dim) {
    case 64:
      return LaunchPrefill64(device, layout.k_format, layout.v_format, bucket, p);
    case 128:
      return LaunchPrefill128(device, layout.k_format, layout.v_format, bucket, p);
    case 256:
      return LaunchPrefill256(device, layout.k_format, layout.v_format, bucket, p);
    default:
      CHECK(false) << "head_dim " << shape.head_dim << ": 64, 128 or 256";
  }
}

}  // namespace dunlin::kernels::cuda
