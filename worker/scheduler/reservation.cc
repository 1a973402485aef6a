#include "worker/scheduler/reservation.h"

#include <algorithm>
#include <cstddef>

#include "base/check.h"

namespace dunlin::worker {
namespace {

int32_t PagesFor(int64_t tokens, int32_t page_tokens) {
  return static_cast<int32_t>((std::max<int64_t>(tokens, 1) + page_tokens - 1) / page_tokens);
}

// The oldest of those of the highest priority that are not paused; -1 if all are.
int32_t Anchor(std::span<const VictimView> running) {
  int32_t anchor = -1;
  for (size_t i = 0; i < running.size(); ++i) {
    if (running[i].paused) continue;
    if (anchor >= 0) {
      const VictimView& a = running[static_cast<size_t>(anchor)];
      if (running[i].priority < a.priority) continue;
      if (running[i].priority == a.priority && running[i].age_rank > a.age_rank) continue;
    }
    anchor = static_cast<int32_t>(i);
  }
  return anchor;
}

// Whether a gives way before b.
bool Before(const VictimView& a, const VictimView& b) {
  if (a.priority != b.priority) return a.priority < b.priority;
  if (a.preemptions != b.preemptions) return a.preemptions < b.preemptions;
  // Cost per page, without dividing: a page of 0 freed (only the asking one may have it) costs most.
  const int64_t cost_a = static_cast<int64_t>(a.recompute_tokens) * b.freed_pages;
  const int64_t cost_b = static_cast<int64_t>(b.recompute_tokens) * a.freed_pages;
  if (cost_a != cost_b) return cost_a < cost_b;
  return a.age_rank > b.age_rank;
}

}  // namespace

int32_t WorstCasePages(const ReservationInput& s, int32_t page_tokens) {
  return PagesFor(int64_t{s.prompt_tokens} + std::max(s.max_output - 1, 0), page_tokens);
}

int32_t ReservePages(const ReservationInput& s, const OutputPredictor& predictor, int32_t page_tokens) {
  if (s.preemptions >= kMaxPreemptions) return WorstCasePages(s, page_tokens);
  const int32_t output = predictor.Predict(s.max_output, s.generated);
  return PagesFor(int64_t{s.prompt_tokens} + std::max(output - 1, s.generated), page_tokens);
}

int32_t ChooseVictim(std::span<const VictimView> running, int32_t asking) {
  CHECK_GE(asking, 0);
  CHECK_LT(static_cast<size_t>(asking), running.size());
  const int32_t anchor = Anchor(running);
  int32_t victim = -1;
  for (int32_t i = 0; i < static_cast<int32_t>(running.size()); ++i) {
    const VictimView& v = running[static_cast<size_t>(i)];
    if (i == anchor || v.preemptions >= kMaxPreemptions) continue;
    if (i != asking && v.freed_pages <= 0) continue;
    if (victim < 0 || Before(v, running[static_cast<size_t>(victim)])) victim = i;
  }
  if (victim >= 0) return victim;
  return running[static_cast<size_t>(asking)].preemptions < kMaxPreemptions ? asking : -1;
}

}  // namespace dunlin::worker
