// launch.h for g++. Included by launch.h only.
// Thread-safety, errors: as launch.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_EMULATOR_LAUNCH_EMULATED_H_
#define DUNLIN_KERNELS_CUDA_EMULATOR_LAUNCH_EMULATED_H_

#include <string>
#include <tuple>

#include "kernels/cuda/emulator/emulator.h"
#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda {

// Arguments are taken by value at the call, as a launch on a device takes them.
template <typename... Parameters, typename... Arguments>
void LaunchEmulated(Device* device, const LaunchConfig& config, const char* name, void (*kernel)(Parameters...),
                    Arguments&&... arguments) {
  if (!device->ok() || config.grid_x == 0 || config.grid_y == 0 || config.grid_z == 0) return;
  device->Enqueue(
      [device, config, name, kernel, values = std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)] {
        const std::string failure = emulator::Run({config.grid_x, config.grid_y, config.grid_z}, config.threads,
                                                  config.shared_bytes, [&] { std::apply(kernel, values); });
        if (!failure.empty()) device->Fail(std::string("launch of ") + name + ": " + failure);
      });
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_EMULATOR_LAUNCH_EMULATED_H_
