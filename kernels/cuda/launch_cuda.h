// launch.h for nvcc. Included by launch.h only.
// Thread-safety, errors: as launch.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_LAUNCH_CUDA_H_
#define DUNLIN_KERNELS_CUDA_LAUNCH_CUDA_H_

#include <cuda_runtime.h>

#include <string>

#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda {

template <typename... Parameters, typename... Arguments>
void LaunchCuda(Device* device, const LaunchConfig& config, const char* name, void (*kernel)(Parameters...),
                Arguments&&... arguments) {
  if (!device->ok() || config.grid_x == 0 || config.grid_y == 0 || config.grid_z == 0) return;
  constexpr size_t kWithoutAsking = 48 * 1024;
  cudaError_t error = cudaSuccess;
  if (config.shared_bytes > kWithoutAsking) {
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(config.shared_bytes));
  }
  if (error == cudaSuccess) {
    const dim3 grid(static_cast<unsigned>(config.grid_x), static_cast<unsigned>(config.grid_y),
                    static_cast<unsigned>(config.grid_z));
    kernel<<<grid, static_cast<unsigned>(config.threads), config.shared_bytes,
             static_cast<cudaStream_t>(device->native_stream())>>>(static_cast<Parameters>(arguments)...);
    error = cudaGetLastError();
  }
  if (error != cudaSuccess) device->Fail(std::string("launch of ") + name + ": " + cudaGetErrorString(error));
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_LAUNCH_CUDA_H_
