// How many KV pages fit: pure arithmetic, and the one place that asks the operating system.
// Thread-safety: pure functions; ReadHostMemory reads files.
// Errors (PlanKvPool): kResourceExhausted when one sequence of max_model_len does not fit, saying what would, or when
// an explicit size is more than the host has.
#ifndef DUNLIN_WORKER_MEMORY_BUDGET_H_
#define DUNLIN_WORKER_MEMORY_BUDGET_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::worker {

// What the host offers this process, in bytes.
struct HostMemory {
  uint64_t total_bytes = 0;      // the smaller of physical memory and the cgroup's limit
  uint64_t available_bytes = 0;  // the smaller of MemAvailable and what the cgroup's limit leaves
};
// Reads /proc/meminfo and the cgroup (v2) under `root` ("" in production; a directory of test files otherwise).
absl::StatusOr<HostMemory> ReadHostMemory(absl::string_view root = "");

struct KvPoolRequest {
  uint64_t explicit_bytes = 0;  // --kv-cache-memory-bytes; 0 = from utilization
  double utilization = 0.9;     // of total_bytes, for weights and everything else too
  uint64_t page_bytes = 0;
  int page_tokens = 16;
  int max_model_len = 0;  // tokens of one sequence
  int max_num_seqs = 0;
  uint64_t other_bytes = 0;  // weights and scratch, held beside the pool (already allocated or about to be)
};
// Pages of the pool: as many as the budget allows, at most what max_num_seqs full sequences can use. A host that says
// nothing (total_bytes 0) limits no explicit size.
absl::StatusOr<int32_t> PlanKvPool(const KvPoolRequest& request, const HostMemory& host);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_MEMORY_BUDGET_H_
