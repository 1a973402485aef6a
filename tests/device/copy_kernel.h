// The copy that the benchmarks take as the device's attainable bandwidth: every thread moves 16 bytes at a time.
// Thread-safety, errors: as runtime.h.  Source: ours.
#ifndef DUNLIN_TESTS_DEVICE_COPY_KERNEL_H_
#define DUNLIN_TESTS_DEVICE_COPY_KERNEL_H_

#include <cstddef>

#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda::bench {

// bytes: a multiple of 16; both 16-byte aligned. Reads and writes each once.
void CopyByKernel(Device* device, void* to, const void* from, size_t bytes);

}  // namespace dunlin::kernels::cuda::bench

#endif  // DUNLIN_TESTS_DEVICE_COPY_KERNEL_H_
