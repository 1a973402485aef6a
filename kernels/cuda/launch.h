// The one way to start a kernel. Thread-safety, errors: as runtime.h (a launch that fails makes the device's error).
// Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_LAUNCH_H_
#define DUNLIN_KERNELS_CUDA_LAUNCH_H_

#include <cstddef>

#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {

struct LaunchConfig {
  int grid_x = 1;  // blocks; a grid without blocks launches nothing
  int grid_y = 1;
  int grid_z = 1;
  int threads = 128;        // of a block, whole warps
  size_t shared_bytes = 0;  // dynamic shared memory of a block
};

}  // namespace dunlin::kernels::cuda

// DUNLIN_LAUNCH(device, (config), kernel, arguments…): device is a Device*, kernel may be a template instance in
// parentheses: (Kernel<64>).
#if defined(__CUDACC__)
#include "kernels/cuda/launch_cuda.h"
#define DUNLIN_LAUNCH(device, config, kernel, ...) \
  ::dunlin::kernels::cuda::LaunchCuda(device, config, #kernel, kernel, __VA_ARGS__)
#else
#include "kernels/cuda/emulator/launch_emulated.h"
#define DUNLIN_LAUNCH(device, config, kernel, ...) \
  ::dunlin::kernels::cuda::LaunchEmulated(device, config, #kernel, kernel, __VA_ARGS__)
#endif

#endif  // DUNLIN_KERNELS_CUDA_LAUNCH_H_
