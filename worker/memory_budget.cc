#include "worker/memory_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace dunlin::worker {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

std::string Slurp(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

// The value of "Key:   123 kB" in bytes; 0 when absent.
uint64_t MeminfoBytes(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key) || !absl::ConsumePrefix(&line, ":")) continue;
    absl::ConsumeSuffix(&line, "kB");
    uint64_t kilobytes = 0;
    if (absl::SimpleAtoi(line, &kilobytes)) return kilobytes * 1024;
  }
  return 0;
}

// A cgroup file that holds a number or "max".
uint64_t CgroupBytes(const std::string& path) {
  uint64_t value = kNoLimit;
  return absl::SimpleAtoi(Slurp(path), &value) ? value : kNoLimit;
}

double Mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

}  // namespace

absl::StatusOr<HostMemory> ReadHostMemory(absl::string_view root) {
  const std::string meminfo = Slurp(absl::StrCat(root, "/proc/meminfo"));
  HostMemory host;
  host.total_bytes = MeminfoBytes(meminfo, "MemTotal");
  host.available_bytes = MeminfoBytes(meminfo, "MemAvailable");
  if (host.total_bytes == 0 || host.available_bytes == 0) {
    return absl::UnavailableError(absl::StrCat(root, "/proc/meminfo does not say MemTotal and MemAvailable"));
  }
  const std::string cgroup = absl::StrCat(root, "/sys/fs/cgroup/");
  const uint64_t limit = CgroupBytes(cgroup + "memory.max");
  if (limit != kNoLimit) {
    const uint64_t used = CgroupBytes(cgroup + "memory.current");
    host.total_bytes = std::min(host.total_bytes, limit);
    host.available_bytes = std::min(host.available_bytes, used < limit ? limit - used : 0);
  }
  return host;
}

absl::StatusOr<int32_t> PlanKvPool(const KvPoolRequest& request, const HostMemory& host) {
  const auto tokens = static_cast<uint64_t>(request.page_tokens);
  const uint64_t one_sequence = (static_cast<uint64_t>(request.max_model_len) + tokens - 1) / tokens;
  const uint64_t useful = one_sequence * static_cast<uint64_t>(std::max(request.max_num_seqs, 1));
  uint64_t budget = request.explicit_bytes;
  if (budget == 0) {
    const auto allowed = static_cast<uint64_t>(request.utilization * static_cast<double>(host.total_bytes));
    budget = allowed > request.other_bytes ? allowed - request.other_bytes : 0;
    budget = std::min(budget, static_cast<uint64_t>(request.utilization * static_cast<double>(host.available_bytes)));
  }
  const uint64_t pages = std::min({budget / request.page_bytes, useful, uint64_t{std::numeric_limits<int32_t>::max()}});
  if (pages < one_sequence) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the KV cache does not fit: one sequence of --max-model-len %d needs %.1f MiB, the budget is %.1f MiB (%s); "
        "--max-model-len %d would fit",
        request.max_model_len, Mib(one_sequence * request.page_bytes), Mib(budget),
        request.explicit_bytes != 0
            ? std::string("--kv-cache-memory-bytes")
            : absl::StrFormat("--gpu-memory-utilization %g of %.1f MiB, %.1f MiB available", request.utilization,
                              Mib(host.total_bytes), Mib(host.available_bytes)),
        pages * tokens));
  }
  const uint64_t pool = pages * request.page_bytes;
  if (request.explicit_bytes != 0 && host.total_bytes != 0 &&
      (request.other_bytes > host.total_bytes || pool > host.total_bytes - request.other_bytes)) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "--kv-cache-memory-bytes: %.1f MiB of pages and %.1f MiB beside them do not fit in the host's %.1f MiB",
        Mib(pool), Mib(request.other_bytes), Mib(host.total_bytes)));
  }
  return static_cast<int32_t>(pages);
}

}  // namespace dunlin::worker
