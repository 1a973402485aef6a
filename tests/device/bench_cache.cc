#include "tests/device/bench_cache.h"

#include <algorithm>
#include <numeric>

#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda::bench {
namespace {

constexpr int kPageTokens = 16;

PageLayout LayoutOf(const CacheShape& s) {
  return PageLayout::Create(kPageTokens, s.layers, s.attention.num_kv_heads, s.attention.head_dim, s.k_format,
                            s.v_format, false, SlabOrder::kDevice);
}

std::vector<uint8_t> RandomPage(const PageLayout& layout) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> page(layout.page_bytes);
  std::vector<float> k(static_cast<size_t>(layout.num_kv_heads) * static_cast<size_t>(layout.head_dim));
  std::vector<float> v(k.size());
  for (int layer = 0; layer < layout.num_layers; ++layer) {
    for (int slot = 0; slot < layout.page_tokens; ++slot) {
      for (float& x : k) x = normal(random);
      for (float& x : v) x = normal(random);
      AppendToken(layout, page.data(), layer, slot, k.data(), v.data());
    }
  }
  return page;
}

}  // namespace

uint64_t CacheBytes(const CacheShape& shape) {
  return LayoutOf(shape).TokenLayerBytes() * static_cast<uint64_t>(shape.sequences) *
         static_cast<uint64_t>(shape.context + shape.rows);
}

DeviceBuffer<float> NormalFloats(Device* device, size_t count, float deviation) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& x : values) x = normal(random);
  return Upload(device, values);
}

FilledCache::FilledCache(Device* device, const CacheShape& shape) : device_(device), layout_(LayoutOf(shape)) {
  const int total = shape.context + shape.rows;
  const int pages_each = (total + kPageTokens - 1) / kPageTokens;
  const int num_rows = shape.sequences * shape.rows;
  const size_t num_pages = static_cast<size_t>(shape.sequences) * static_cast<size_t>(pages_each);
  arena_ = DeviceBuffer<uint8_t>(device, layout_.page_bytes * num_pages);
  limits_ = {.max_rows = num_rows,
             .max_decode_rows = shape.rows < kPrefillRows ? num_rows : 1,
             .max_context = total,
             .shape = shape.attention};
  workspace_ = DeviceBuffer<uint8_t>(device, AttentionWorkspaceBytes(*device, limits_));
  if (!ok()) return;
  FillPages(static_cast<int>(num_pages));
  FillBatch(shape, pages_each);
  PlanAttention(device_, limits_, batch_, pages(), workspace_.data());
}

void FilledCache::FillPages(int num_pages) {
  const std::vector<uint8_t> page = RandomPage(layout_);
  device_->CopyToDevice(arena_.data(), page.data(), page.size());
  for (int i = 1; i < num_pages; ++i) {
    device_->CopyOnDevice(arena_.data() + layout_.page_bytes * static_cast<size_t>(i), arena_.data(),
                          layout_.page_bytes);
  }
  device_->Synchronize();
}

void FilledCache::FillBatch(const CacheShape& shape, int pages_each) {
  const int num_rows = shape.sequences * shape.rows;
  std::vector<int32_t> ids(static_cast<size_t>(shape.sequences) * static_cast<size_t>(pages_each));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(11));
  std::vector<DeviceSequence> sequences;
  std::vector<int32_t> positions, row_sequence;
  for (int s = 0; s < shape.sequences; ++s) {
    sequences.push_back({s * shape.rows, shape.rows, shape.context, s * pages_each});
    for (int r = 0; r < shape.rows; ++r) {
      positions.push_back(shape.context + r);
      row_sequence.push_back(s);
    }
  }
  page_ids_ = Upload(device_, ids);
  sequences_ = Upload(device_, sequences);
  positions_ = Upload(device_, positions);
  row_sequence_ = Upload(device_, row_sequence);
  counts_ = Upload(device_, std::vector<BatchCounts>{{num_rows, shape.sequences, 0, 0}});
  batch_ = {.max_rows = num_rows,
            .max_sequences = shape.sequences,
            .counts = counts_.data(),
            .positions = positions_.data(),
            .row_sequence = row_sequence_.data(),
            .sequences = sequences_.data(),
            .pages = page_ids_.data()};
}

}  // namespace dunlin::kernels::cuda::bench
