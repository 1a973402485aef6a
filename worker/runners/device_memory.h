// How many KV pages fit in a device's memory: the device's figures in the form of the host's planner (memory_budget.h).
// Thread-safety: pure functions.  Units: bytes.
// Errors (PlanDevicePages): as PlanKvPool, and kResourceExhausted when an explicit size is more than the device has
// free.
#ifndef DUNLIN_WORKER_RUNNERS_DEVICE_MEMORY_H_
#define DUNLIN_WORKER_RUNNERS_DEVICE_MEMORY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "worker/memory_budget.h"

namespace dunlin::worker {

// Never given to pages: recorded graphs, kernels loaded at their first use, sampling lists that grow, the allocator's
// own granularity.
inline constexpr uint64_t kDeviceReserveBytes = uint64_t{192} << 20;

struct DeviceMemory {
  std::string name;  // of the device
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;  // now
  bool unified = false;     // the host's memory is the same: what either says is not there, is not there
};

// What pages may be planned from: less the reserve and `coming_bytes`, which will be allocated before the pages. host:
// looked at for unified memory only; total_bytes 0 = not known.
HostMemory PlannableMemory(const DeviceMemory& device, const HostMemory& host, uint64_t coming_bytes);

// request.other_bytes: weights and scratch, allocated already or among the coming; the reserve is added here.
absl::StatusOr<KvPoolPlan> PlanDevicePages(KvPoolRequest request, const HostMemory& plannable);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_DEVICE_MEMORY_H_
