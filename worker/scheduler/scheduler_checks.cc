#include "worker/scheduler/scheduler_checks.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::worker {

std::string CheckBudget(std::span<const RowView> running, std::span<const int32_t> rows, const RowLimits& limits) {
  if (rows.size() != running.size()) {
    return absl::StrCat("budget: ", rows.size(), " shares for ", running.size(), " sequences");
  }
  int64_t total = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const RowView& s = running[i];
    if (rows[i] < 0 || rows[i] > s.remaining) {
      return absl::StrCat("budget: sequence ", i, " gets ", rows[i], " of ", s.remaining, " tokens");
    }
    const bool ready = !s.paused && !s.blocked;
    if (!ready && rows[i] > 0) return absl::StrCat("budget: sequence ", i, " gets ", rows[i], " while it must wait");
    if (ready && s.decoding && rows[i] != 1) return absl::StrCat("budget: sequence ", i, " decodes and gets no token");
    total += rows[i];
  }
  if (total > limits.max_rows) return absl::StrCat("budget: ", total, " tokens of ", limits.max_rows);
  return "";
}

std::string CheckPromises(std::span<const int32_t> reserved, std::span<const int32_t> held, int32_t available_pages) {
  CHECK_EQ(reserved.size(), held.size());
  int64_t outstanding = 0;
  for (size_t i = 0; i < reserved.size(); ++i) {
    if (held[i] > reserved[i]) {
      return absl::StrCat("promises: sequence ", i, " holds ", held[i], " pages of ", reserved[i]);
    }
    outstanding += reserved[i] - held[i];
  }
  if (outstanding > available_pages) {
    return absl::StrCat("promises: ", outstanding, " pages are outstanding, ", available_pages, " are available");
  }
  return "";
}

std::string CheckProgress(std::span<const RowView> running, uint64_t step, const RowLimits& limits) {
  const auto most = static_cast<uint64_t>(2 * limits.partial_prefills);
  for (size_t i = 0; i < running.size(); ++i) {
    const RowView& s = running[i];
    if (s.decoding || s.paused || s.blocked || step <= s.last_advanced) continue;
    if (step - s.last_advanced > most) {
      return absl::StrCat("progress: sequence ", i, " has not advanced since step ", s.last_advanced, ", now ", step,
                          ", within ", most);
    }
  }
  return "";
}

}  // namespace dunlin::worker
