// Which CUDA device each worker process of this machine gets. Thread-safety: pure but for VisibleCudaDevices, which
// reads the driver's list. Errors: none: where nothing is known every worker sees what the machine has.  Source: ours.
#ifndef DUNLIN_TOOLS_DEVICE_ASSIGNMENT_H_
#define DUNLIN_TOOLS_DEVICE_ASSIGNMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace dunlin::tools {

// Values for a child's CUDA_VISIBLE_DEVICES, one device each. environment: our own CUDA_VISIBLE_DEVICES, whose entries
// (indices, GPU- and MIG- UUIDs) count up to the first that is not one, as CUDA has it; nullptr = not set: the GPUs
// that the driver lists under root/proc/driver/nvidia/gpus. Empty: none, or a machine that does not list them.
std::vector<std::string> VisibleCudaDevices(const char* environment, const std::string& root = "");

// How `serve` divides the machine.
struct Assignment {
  uint32_t workers = 1;
  std::vector<std::string> devices;  // worker i has devices[i % size()]; empty: no worker is bound to one
  // Workers that share a memory: the machine's or, at most, one device's.
  uint32_t sharing() const;
};
// asked_workers: 0 = not said: one per device. device: the word of --device.
Assignment AssignDevices(uint32_t asked_workers, absl::string_view device, std::vector<std::string> visible);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_DEVICE_ASSIGNMENT_H_
