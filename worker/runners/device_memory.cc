#include "worker/runners/device_memory.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace dunlin::worker {
namespace {

double Mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

HostMemory PlannableMemory(const DeviceMemory& device, const HostMemory& host, uint64_t coming_bytes) {
  HostMemory memory;
  memory.total_bytes = device.total_bytes;
  memory.total_source = absl::StrCat("of ", device.name);
  memory.available_bytes = device.free_bytes;
  memory.available_source = absl::StrCat("free on ", device.name);
  if (device.unified && host.total_bytes != 0) {
    if (host.total_bytes < memory.total_bytes) {
      memory.total_bytes = host.total_bytes;
      memory.total_source = absl::StrCat("shared with the host: ", host.total_source);
    }
    if (host.available_bytes < memory.available_bytes) {
      memory.available_bytes = host.available_bytes;
      memory.available_source = absl::StrCat("shared with the host: ", host.available_source);
    }
  }
  const uint64_t taken = kDeviceReserveBytes + coming_bytes;
  memory.available_bytes -= std::min(taken, memory.available_bytes);
  absl::StrAppendFormat(&memory.available_source, ", less %.1f MiB for graphs and growth", Mib(kDeviceReserveBytes));
  if (coming_bytes != 0)
    absl::StrAppendFormat(&memory.available_source, " and %.1f MiB beside the pool", Mib(coming_bytes));
  return memory;
}

absl::StatusOr<KvPoolPlan> PlanDevicePages(KvPoolRequest request, const HostMemory& plannable) {
  request.other_bytes += kDeviceReserveBytes;
  ASSIGN_OR_RETURN(const KvPoolPlan plan, PlanKvPool(request, plannable));
  const uint64_t pool = static_cast<uint64_t>(plan.pages) * request.page_bytes;
  if (pool > plannable.available_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("--kv-cache-memory-bytes: %.1f MiB of pages do not fit in the %.1f MiB there are (%s)",
                        Mib(pool), Mib(plannable.available_bytes), plannable.available_source));
  }
  return plan;
}

}  // namespace dunlin::worker
