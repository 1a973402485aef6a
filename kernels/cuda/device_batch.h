// The device's copy of a step's batch: one block of memory, filled by one copy per step. Where the arrays lie in it
// follows from the bucket alone, so a graph recorded for a bucket finds every later batch of that bucket.
// Thread-safety: as runtime.h.  Owns: the block and its pinned staging; borrows the device.  Units: rows, pages.
// Errors: ok() is false where memory ran out; CHECK on a batch beyond the limits or the bucket.
// Cost: one copy of 16 bytes per row, 16 per sequence and 4 per page of the sequences. The copy before the one before
// must be done before an Upload: staging is double.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_DEVICE_BATCH_H_
#define DUNLIN_KERNELS_CUDA_DEVICE_BATCH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cuda {

// What grids are sized for.
struct BatchBucket {
  int32_t rows = 0;
  int32_t sequences = 0;
  int32_t outputs = 0;
  friend bool operator==(const BatchBucket&, const BatchBucket&) = default;
};

class DeviceBatchBuffer {
 public:
  struct Limits {
    BatchBucket largest;
    int32_t pages_per_sequence = 0;
    int page_tokens = 0;
  };
  // Of device memory, and of pinned host memory.
  static size_t Bytes(const Limits& limits);

  DeviceBatchBuffer() = default;
  DeviceBatchBuffer(Device* device, const Limits& limits);
  bool ok() const { return block_.data() != nullptr && staging_[0].data() != nullptr && staging_[1].data() != nullptr; }

  // output_rows: rows of the batch, ascending. from_previous: [num_rows] as DeviceBatch, or empty. The result's
  // pointers are the same for every batch of that bucket.
  DeviceBatch Upload(const BatchView& batch, std::span<const int32_t> output_rows,
                     std::span<const int32_t> from_previous, const BatchBucket& bucket);

 private:
  // Byte offsets of the arrays for a bucket; `pages` is the last.
  struct Places {
    size_t sequences, token_ids, from_previous, positions, row_sequence, output_rows, pages;
  };
  static Places PlacesFor(const BatchBucket& bucket);

  Device* device_ = nullptr;
  Limits limits_;
  DeviceBuffer<uint8_t> block_;
  std::array<PinnedBuffer<uint8_t>, 2> staging_;
  size_t side_ = 0;  // of the next Upload
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_DEVICE_BATCH_H_
