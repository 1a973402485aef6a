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

// What the host offers this process, in bytes, and the file or key that says so.
struct HostMemory {
  uint64_t total_bytes = 0;      // the smallest of physical memory and the limits of the process's cgroups
  uint64_t available_bytes = 0;  // the smallest of MemAvailable and what each of those limits leaves
  std::string total_source = {};
  std::string available_source = {};
};
// Reads /proc/meminfo, /proc/self/cgroup and the memory limits (v2 memory.max and memory.high, v1
// memory.limit_in_bytes) of the process's own cgroup and of every one above it, under `root` ("" in production; a
// directory of test files otherwise). Page cache that the kernel would give back first counts as free.
absl::StatusOr<HostMemory> ReadHostMemory(absl::string_view root = "");

struct KvPoolRequest {
  uint64_t explicit_bytes = 0;  // --kv-cache-memory-bytes; 0 = from utilization
  double utilization = 0.9;     // of total_bytes, for weights and everything else too
  uint64_t page_bytes = 0;
  int page_tokens = 16;
  int max_model_len = 0;  // tokens of one sequence
  int max_num_seqs = 0;
  uint64_t other_bytes = 0;  // weights, host tier in memory: held beside the pool (already allocated or about to be)
};

struct KvPoolPlan {
  int32_t pages = 0;
  uint64_t budget_bytes = 0;  // for pages
  std::string budget_source;  // the flag it follows from, with the figures
  std::string bound;          // what keeps the pool from being larger
  HostMemory host;
};
// As many pages as the budget allows; of a share of the memory at most what max_num_seqs full sequences can use. A host
// that says nothing (total_bytes 0) limits no explicit size.
absl::StatusOr<KvPoolPlan> PlanKvPool(const KvPoolRequest& request, const HostMemory& host);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_MEMORY_BUDGET_H_
