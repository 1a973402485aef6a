#include "worker/scheduler/draft_planner.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace dunlin::worker {
namespace {

// A row must promise so much more than the step's own rate: the model may be wrong, and waiting is certain.
constexpr double kMargin = 1.5;
constexpr double kMostDelay = 0.25;  // of a step that others share

// The step as it grows: what it brings, how long it takes.
struct Step {
  double tokens;
  double seconds;
  double most_seconds;
};

// Rows of one sequence's draft that are worth it; they are added to *step.
int32_t WorthIt(const DraftView& s, int32_t room, double row_seconds, Step* step) {
  double chance = 1;
  int32_t rows = 0;
  for (; rows < std::min(s.most, room); ++rows) {
    chance *= static_cast<double>(s.chance[static_cast<size_t>(rows)]);
    const double seconds = step->seconds + row_seconds;
    if (seconds > step->most_seconds || !(chance * step->seconds > kMargin * step->tokens * row_seconds)) break;
    step->tokens += chance;
    step->seconds = seconds;
  }
  return rows;
}

}  // namespace

void PlanDrafts(std::span<const DraftView> sequences, const DraftLimits& limits, uint64_t step,
                const StepTimeModel& model, std::vector<int32_t>* rows) {
  const size_t n = sequences.size();
  rows->assign(n, 0);
  auto room = limits.max_rows - static_cast<int32_t>(n);
  const bool always = limits.drafting == Drafting::kAlways;
  if (n == 0 || room <= 0 || (!always && !model.ready())) return;
  int64_t context = 0;
  for (const DraftView& s : sequences) context += s.context;
  const double seconds = absl::ToDoubleSeconds(model.Predict(static_cast<int32_t>(n), context));
  const double undelayed = n == 1 ? std::numeric_limits<double>::infinity() : seconds * (1 + kMostDelay);
  Step planned{static_cast<double>(n), seconds, std::min(undelayed, absl::ToDoubleSeconds(limits.target))};
  const auto [fixed, per_row, per_context] = model.coefficients();
  for (size_t k = 0; k < n && room > 0; ++k) {
    const size_t i = (step + k) % n;
    const DraftView& s = sequences[i];
    CHECK(s.most >= 0 && s.most <= kMaxDraftTokens) << s.most;
    const double row_seconds = per_row + per_context * static_cast<double>(s.context);
    (*rows)[i] = always ? std::min(s.most, room) : WorthIt(s, room, row_seconds, &planned);
    room -= (*rows)[i];
  }
}

}  // namespace dunlin::worker
