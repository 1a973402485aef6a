#include "tests/device/copy_kernel.h"

#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;  // loads in flight

DUNLIN_KERNEL(kThreads, 4) void Copy(const dev::U4* from, dev::U4* to, size_t count) {
  const size_t step = static_cast<size_t>(dev::GridX()) * kThreads;
  size_t i = static_cast<size_t>(dev::BlockX()) * kThreads + static_cast<size_t>(dev::ThreadX());
  for (; i + (kPerThread - 1) * step < count; i += kPerThread * step) {
    dev::U4 values[kPerThread];
    DUNLIN_UNROLL
    for (int j = 0; j < kPerThread; ++j) values[j] = dev::LoadStream16(from + i + static_cast<size_t>(j) * step);
    DUNLIN_UNROLL
    for (int j = 0; j < kPerThread; ++j) to[i + static_cast<size_t>(j) * step] = values[j];
  }
  for (; i < count; i += step) to[i] = dev::LoadStream16(from + i);
}

}  // namespace

void CopyByKernel(Device* device, void* to, const void* from, size_t bytes) {
  DUNLIN_LAUNCH(device, (LaunchConfig{.grid_x = 8 * device->info().num_sms, .threads = kThreads}), Copy,
                static_cast<const dev::U4*>(from), static_cast<dev::U4*>(to), bytes / 16);
}

}  // namespace dunlin::kernels::cuda::bench
