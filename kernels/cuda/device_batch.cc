#include "kernels/cuda/device_batch.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr size_t kAlignment = 16;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
size_t Ids(int32_t count) { return Aligned(static_cast<size_t>(count) * sizeof(int32_t)); }

int32_t PagesOf(const SequenceSlice& s, int page_tokens) {
  return (s.context_tokens + s.num_rows + page_tokens - 1) / page_tokens;
}

}  // namespace

DeviceBatchBuffer::Places DeviceBatchBuffer::PlacesFor(const BatchBucket& bucket) {
  Places at;
  at.sequences = Aligned(sizeof(BatchCounts));
  at.token_ids = at.sequences + Aligned(static_cast<size_t>(bucket.sequences) * sizeof(DeviceSequence));
  at.from_previous = at.token_ids + Ids(bucket.rows);
  at.positions = at.from_previous + Ids(bucket.rows);
  at.row_sequence = at.positions + Ids(bucket.rows);
  at.output_rows = at.row_sequence + Ids(bucket.rows);
  at.pages = at.output_rows + Ids(bucket.outputs);
  return at;
}

size_t DeviceBatchBuffer::Bytes(const Limits& limits) {
  const size_t entries = static_cast<size_t>(limits.largest.sequences) * static_cast<size_t>(limits.pages_per_sequence);
  return PlacesFor(limits.largest).pages + entries * sizeof(int32_t);
}

DeviceBatchBuffer::DeviceBatchBuffer(Device* device, const Limits& limits)
    : device_(device),
      limits_(limits),
      block_(device, Bytes(limits)),
      staging_{PinnedBuffer<uint8_t>(device, Bytes(limits)), PinnedBuffer<uint8_t>(device, Bytes(limits))} {}

DeviceBatch DeviceBatchBuffer::Upload(const BatchView& batch, std::span<const int32_t> output_rows,
                                      std::span<const int32_t> from_previous, const BatchBucket& bucket) {
  const auto num_sequences = static_cast<int32_t>(batch.sequences.size());
  const auto num_outputs = static_cast<int32_t>(output_rows.size());
  CHECK_LE(batch.num_rows, bucket.rows);
  CHECK_LE(num_sequences, bucket.sequences);
  CHECK_LE(num_outputs, bucket.outputs);
  CHECK(from_previous.empty() || from_previous.size() == static_cast<size_t>(batch.num_rows));
  CHECK(bucket.rows <= limits_.largest.rows && bucket.sequences <= limits_.largest.sequences &&
        bucket.outputs <= limits_.largest.outputs);
  const Places at = PlacesFor(bucket);
  uint8_t* const to = staging_[side_].data();
  side_ = 1 - side_;
  const auto ids = [to](size_t offset) { return reinterpret_cast<int32_t*>(to + offset); };
  const BatchCounts counts{batch.num_rows, num_sequences, num_outputs, 0};
  std::memcpy(to, &counts, sizeof counts);
  std::copy_n(batch.token_ids, batch.num_rows, ids(at.token_ids));
  if (from_previous.empty()) {
    std::fill_n(ids(at.from_previous), batch.num_rows, -1);
  } else {
    std::copy(from_previous.begin(), from_previous.end(), ids(at.from_previous));
  }
  std::copy_n(batch.positions, batch.num_rows, ids(at.positions));
  std::copy(output_rows.begin(), output_rows.end(), ids(at.output_rows));
  auto* const sequences = reinterpret_cast<DeviceSequence*>(to + at.sequences);
  int32_t* const pages = ids(at.pages);
  int32_t num_pages = 0;
  for (int32_t i = 0; i < num_sequences; ++i) {
    const SequenceSlice& s = batch.sequences[static_cast<size_t>(i)];
    sequences[i] = {s.first_row, s.num_rows, s.context_tokens, num_pages};
    std::fill_n(ids(at.row_sequence) + s.first_row, s.num_rows, i);
    const int32_t count = PagesOf(s, limits_.page_tokens);
    CHECK_LE(count, limits_.pages_per_sequence);
    std::copy_n(s.pages, count, pages + num_pages);
    num_pages += count;
  }
  uint8_t* const block = block_.data();
  device_->CopyToDevice(block, to, at.pages + static_cast<size_t>(num_pages) * sizeof(int32_t));

  const auto array = [block](size_t offset) { return reinterpret_cast<const int32_t*>(block + offset); };
  DeviceBatch on_device;
  on_device.max_rows = bucket.rows;
  on_device.max_sequences = bucket.sequences;
  on_device.max_outputs = bucket.outputs;
  on_device.counts = reinterpret_cast<const BatchCounts*>(block);
  on_device.token_ids = reinterpret_cast<int32_t*>(block + at.token_ids);
  on_device.from_previous = array(at.from_previous);
  on_device.positions = array(at.positions);
  on_device.row_sequence = array(at.row_sequence);
  on_device.sequences = reinterpret_cast<const DeviceSequence*>(block + at.sequences);
  on_device.pages = array(at.pages);
  on_device.output_rows = array(at.output_rows);
  return on_device;
}

}  // namespace dunlin::kernels::cuda
