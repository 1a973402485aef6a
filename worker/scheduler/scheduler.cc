#include "worker/scheduler/scheduler.h"

#include <algorithm>
#include <cstddef>

#include "base/check.h"

namespace dunlin::worker {
namespace {

// Gives `share` tokens at most to sequence i; returns how many it took.
int32_t Give(std::span<const RunningSequence> running, size_t i, int32_t share, std::vector<int32_t>* rows) {
  const int32_t taken = std::min(share, running[i].remaining_tokens - (*rows)[i]);
  (*rows)[i] += taken;
  return taken;
}

bool IsPrompt(const RunningSequence& s) { return !s.decoding && !s.paused; }

// The prompt with the least left to do beyond `rows`, the oldest of equals; running.size() when there is none.
size_t Shortest(std::span<const RunningSequence> running, std::span<const int32_t> rows) {
  size_t shortest = running.size();
  int32_t least = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    const int32_t left = running[i].remaining_tokens - rows[i];
    if (!IsPrompt(running[i]) || left == 0) continue;
    if (shortest == running.size() || left < least) {
      shortest = i;
      least = left;
    }
  }
  return shortest;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits) {
  CHECK_GE(limits.max_running, 1);
  CHECK_GE(limits.max_rows, limits.max_running);
  CHECK_GE(limits.lookahead, 1);
}

void Scheduler::PlanAdmission(std::span<const WaitingSequence> waiting, int num_running, int32_t free_pages,
                              std::vector<int32_t>* admitted) const {
  admitted->clear();
  const size_t look = std::min(waiting.size(), static_cast<size_t>(limits_.lookahead));
  for (size_t i = 0; i < look && num_running < limits_.max_running; ++i) {
    if (waiting[i].worst_case_pages <= free_pages) {
      free_pages -= waiting[i].worst_case_pages;
      ++num_running;
      admitted->push_back(static_cast<int32_t>(i));
    } else if (waiting[i].times_passed >= limits_.max_passed) {
      return;  // nobody passes this one any more: the pages that come free gather for it
    }
  }
}

void Scheduler::PlanRows(std::span<const RunningSequence> running, uint64_t step, std::vector<int32_t>* rows) const {
  rows->assign(running.size(), 0);
  int32_t budget = limits_.max_rows;
  int32_t prompts = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    const RunningSequence& s = running[i];
    CHECK_GE(s.remaining_tokens, 1);
    if (IsPrompt(s)) ++prompts;
    if (s.paused || !s.decoding) continue;
    CHECK_EQ(s.remaining_tokens, 1);
    (*rows)[i] = 1;
    --budget;
  }
  CHECK_GE(budget, 0);
  if (prompts == 0 || budget == 0) return;

  int32_t half = budget - budget / 2;
  budget -= half;
  while (half > 0) {
    const size_t i = Shortest(running, *rows);
    if (i == running.size()) return;  // every prompt has all it can use
    half -= Give(running, i, half, rows);
  }

  // Equal shares. With fewer tokens than prompts the one served first moves on from step to step.
  const int32_t share = budget / prompts;
  const int32_t extra = budget % prompts;
  const auto first = static_cast<int32_t>(step % static_cast<uint64_t>(prompts));
  int32_t nth = 0;
  for (size_t i = 0; i < running.size(); ++i) {
    if (!IsPrompt(running[i])) continue;
    const bool has_extra = (nth++ - first + prompts) % prompts < extra;
    budget -= Give(running, i, share + (has_extra ? 1 : 0), rows);
  }
  for (size_t i = 0; i < running.size() && budget > 0; ++i) {
    if (IsPrompt(running[i])) budget -= Give(running, i, budget, rows);
  }
}

}  // namespace dunlin::worker
