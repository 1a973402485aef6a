// What attention's benchmarks run on: pages filled with random keys and values, and a batch of equal sequences over
// them whose pages lie anywhere in the arena. Thread-safety: one thread.  Owns: the device memory of all of it.
// Errors: ok() is false where memory ran out.  Source: ours.
#ifndef DUNLIN_TESTS_DEVICE_BENCH_CACHE_H_
#define DUNLIN_TESTS_DEVICE_BENCH_CACHE_H_

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda::bench {

struct CacheShape {
  AttentionShape attention;
  KvFormat k_format = KvFormat::kE4M3;
  KvFormat v_format = KvFormat::kE4M3;
  int layers = 1;
  int sequences = 1;
  int context = 0;  // tokens of a sequence before the step
  int rows = 1;     // of a sequence in the step
};

// Bytes of one layer's keys, values and scales that one sequence's row sees, of all sequences.
uint64_t CacheBytes(const CacheShape& shape);

// [count] of a normal distribution, on the device. Empty where memory ran out.
DeviceBuffer<float> NormalFloats(Device* device, size_t count, float deviation = 1.0f);

template <typename T>
DeviceBuffer<T> Upload(Device* device, const std::vector<T>& values) {
  DeviceBuffer<T> buffer(device, values.size());
  if (buffer.data() != nullptr) device->CopyToDevice(buffer.data(), values.data(), values.size() * sizeof(T));
  device->Synchronize();
  return buffer;
}

class FilledCache {
 public:
  FilledCache(Device* device, const CacheShape& shape);
  bool ok() const { return arena_.data() != nullptr && workspace_.data() != nullptr; }
  const DeviceBatch& batch() const { return batch_; }
  const AttentionLimits& limits() const { return limits_; }
  DevicePages pages() const { return {.base = arena_.data(), .layout = layout_}; }
  uint8_t* workspace() const { return workspace_.data(); }  // planned for the batch

 private:
  void FillPages(int num_pages);
  void FillBatch(const CacheShape& shape, int pages_each);

  Device* device_;
  PageLayout layout_;
  AttentionLimits limits_;
  DeviceBatch batch_;
  DeviceBuffer<uint8_t> arena_, workspace_;
  DeviceBuffer<int32_t> page_ids_, positions_, row_sequence_;
  DeviceBuffer<DeviceSequence> sequences_;
  DeviceBuffer<BatchCounts> counts_;
};

}  // namespace dunlin::kernels::cuda::bench

#endif  // DUNLIN_TESTS_DEVICE_BENCH_CACHE_H_
