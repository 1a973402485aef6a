// The host side of prefill attention.
#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"

namespace dunlin::kernels::cuda {

void PrefillAttention(Device* device, const AttentionCallArgs& args, const DeviceBatch& batch,
                      const DevicePages& pages) {
  const AttentionShape& shape = args.shape;
  const PageLayout& layout = pages.layout;
  CHECK(layout.order == SlabOrder::kDevice && layout.page_tokens % kTileTokens == 0 && shape.top_pages == 0 &&
        shape.num_kv_heads == layout.num_kv_heads && shape.head_dim == layout.head_dim)
      << "pages that prefill attention cannot read";
  CHECK_EQ(shape.num_q_heads % shape.num_kv_heads, 0);
  PrefillArgs a;
  a.counts = batch.counts;
  a.sequences = batch.sequences;
  a.pages = batch.pages;
  a.slabs = SlabsOfLayer(pages, args.layer);
  a.num_q_heads = shape.num_q_heads;
  a.group = shape.num_q_heads / shape.num_kv_heads;
  a.pattern = shape.pattern();
  a.scale = shape.scale;
  a.soft_cap = args.soft_cap;
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
      CHECK(false) << "head_dim " << shape.head_dim << ": 64, 128 and 256 are supported";
  }
}

}  // namespace dunlin::kernels::cuda
