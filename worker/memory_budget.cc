#include "worker/memory_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <vector>

#include "absl/strings/match.h"
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

// The value of "key 123" in a memory.stat; 0 when absent.
uint64_t StatBytes(const std::string& path, absl::string_view key) {
  const std::string text = Slurp(path);
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    uint64_t value = 0;
    if (absl::ConsumePrefix(&line, key) && absl::ConsumePrefix(&line, " ") && absl::SimpleAtoi(line, &value)) {
      return value;
    }
  }
  return 0;
}

struct CgroupFiles {
  absl::string_view mount;
  std::vector<absl::string_view> limits;
  absl::string_view usage;
  absl::string_view reclaimable;  // of memory.stat: file pages not in use
};

// The process's path in the hierarchy of version 2 ("0::/path") or, of version 1, in the one with the memory
// controller ("4:memory:/path"); "/" when the file does not say, or says one outside our view.
std::string OwnCgroup(const std::string& proc_self_cgroup, bool v2) {
  for (const absl::string_view line : absl::StrSplit(proc_self_cgroup, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    const bool wanted =
        v2 ? parts[1].empty() : std::find(controllers.begin(), controllers.end(), "memory") != controllers.end();
    if (wanted && absl::StartsWith(parts[2], "/") && !absl::StrContains(parts[2], "..")) return std::string(parts[2]);
  }
  return "/";
}

// Applies the limits of the cgroup at `path` and of those above it. A container may see its own cgroup as the mount's
// root, whatever its path is called outside: levels that do not exist limit nothing.
void ApplyCgroup(absl::string_view root, const CgroupFiles& files, std::string path, HostMemory* host) {
  while (true) {
    const std::string shown = absl::StrCat(files.mount, path == "/" ? "" : path, "/");
    const std::string directory = absl::StrCat(root, shown);
    for (const absl::string_view name : files.limits) {
      const uint64_t limit = CgroupBytes(absl::StrCat(directory, name));
      if (limit == kNoLimit) continue;
      if (limit < host->total_bytes) {
        host->total_bytes = limit;
        host->total_source = absl::StrCat(shown, name);
      }
      const uint64_t usage = CgroupBytes(absl::StrCat(directory, files.usage));
      const uint64_t reclaimable = StatBytes(absl::StrCat(directory, "memory.stat"), files.reclaimable);
      const uint64_t used = usage == kNoLimit ? 0 : usage - std::min(usage, reclaimable);
      const uint64_t left = used < limit ? limit - used : 0;
      if (left < host->available_bytes) {
        host->available_bytes = left;
        host->available_source = absl::StrCat("what ", shown, name, " leaves");
      }
    }
    if (path == "/") return;
    path.resize(std::max<size_t>(path.rfind('/'), 1));
  }
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
  host.total_source = "MemTotal";
  host.available_source = "MemAvailable";
  const std::string cgroups = Slurp(absl::StrCat(root, "/proc/self/cgroup"));
  const CgroupFiles v2 = {"/sys/fs/cgroup", {"memory.max", "memory.high"}, "memory.current", "inactive_file"};
  const CgroupFiles v1 = {
      "/sys/fs/cgroup/memory", {"memory.limit_in_bytes"}, "memory.usage_in_bytes", "total_inactive_file"};
  ApplyCgroup(root, v2, OwnCgroup(cgroups, /*v2=*/true), &host);
  ApplyCgroup(root, v1, OwnCgroup(cgroups, /*v2=*/false), &host);
  return host;
}

namespace {

std::string BudgetSource(const KvPoolRequest& request, const HostMemory& host) {
  if (request.explicit_bytes != 0) return "--kv-cache-memory-bytes";
  return absl::StrFormat(
      "--gpu-memory-utilization %g of %.1f MiB (%s) less %.1f MiB beside the pool, and of %.1f MiB available (%s)",
      request.utilization, Mib(host.total_bytes), host.total_source, Mib(request.other_bytes),
      Mib(host.available_bytes), host.available_source);
}

uint64_t Budget(const KvPoolRequest& request, const HostMemory& host) {
  if (request.explicit_bytes != 0) return request.explicit_bytes;
  const auto allowed = static_cast<uint64_t>(request.utilization * static_cast<double>(host.total_bytes));
  const uint64_t rest = allowed > request.other_bytes ? allowed - request.other_bytes : 0;
  return std::min(rest, static_cast<uint64_t>(request.utilization * static_cast<double>(host.available_bytes)));
}

// pages: what the budget holds, fewer than one sequence needs.
absl::Status DoesNotFit(const KvPoolRequest& request, const KvPoolPlan& plan, uint64_t pages, uint64_t one_sequence) {
  const uint64_t tokens = pages * static_cast<uint64_t>(request.page_tokens);
  const uint64_t needed = one_sequence * request.page_bytes;
  std::string would = tokens >= 2 ? absl::StrFormat("--max-model-len %d would fit", tokens)
                                  : absl::StrFormat("not even one page of %d bytes fits", request.page_bytes);
  const bool room = plan.host.total_bytes == 0 || (request.other_bytes < plan.host.total_bytes &&
                                                   needed <= plan.host.total_bytes - request.other_bytes);
  if (room) absl::StrAppend(&would, "; this length takes --kv-cache-memory-bytes ", needed);
  return absl::ResourceExhaustedError(absl::StrFormat(
      "the KV cache does not fit: one sequence of --max-model-len %d needs %.1f MiB, the budget is %.1f "
      "MiB (%s); %s",
      request.max_model_len, Mib(needed), Mib(plan.budget_bytes), plan.budget_source, would));
}

}  // namespace

absl::StatusOr<KvPoolPlan> PlanKvPool(const KvPoolRequest& request, const HostMemory& host) {
  const auto tokens = static_cast<uint64_t>(request.page_tokens);
  const uint64_t one_sequence = (static_cast<uint64_t>(request.max_model_len) + tokens - 1) / tokens;
  constexpr uint64_t kMaxPages = std::numeric_limits<int32_t>::max();
  // Somebody who names a size wants room for cached prefixes, too; a share of the memory is taken as far as the
  // sequences can use it.
  const uint64_t wanted =
      request.explicit_bytes != 0
          ? kMaxPages
          : std::min(one_sequence * static_cast<uint64_t>(std::max(request.max_num_seqs, 1)), kMaxPages);
  KvPoolPlan plan;
  plan.host = host;
  plan.budget_bytes = Budget(request, host);
  plan.budget_source = BudgetSource(request, host);
  const uint64_t affordable = plan.budget_bytes / request.page_bytes;
  if (affordable < one_sequence) return DoesNotFit(request, plan, affordable, one_sequence);
  plan.pages = static_cast<int32_t>(std::min(affordable, wanted));
  plan.bound = affordable <= wanted ? "the budget"
                                    : absl::StrFormat(
                                          "what --max-num-seqs %d sequences of --max-model-len %d can use "
                                          "(--kv-cache-memory-bytes makes room for more cached prefixes)",
                                          request.max_num_seqs, request.max_model_len);
  const uint64_t pool = static_cast<uint64_t>(plan.pages) * request.page_bytes;
  if (request.explicit_bytes != 0 && host.total_bytes != 0 &&
      (request.other_bytes > host.total_bytes || pool > host.total_bytes - request.other_bytes)) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "--kv-cache-memory-bytes: %.1f MiB of pages and %.1f MiB beside them do not fit in the %.1f MiB there are (%s)",
        Mib(pool), Mib(request.other_bytes), Mib(host.total_bytes), host.total_source));
  }
  return plan;
}

}  // namespace dunlin::worker
