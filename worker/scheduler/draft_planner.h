// How many drafted tokens each decoding sequence has verified in a step: as many as are worth more than they cost. A
// row of a draft brings a token with the chance that it and all before it are right, and lengthens the step by what the
// step-time model says of a row. It is added while that buys tokens at a better rate than the step has without it; and
// where others share the step, all drafts together may delay them by a bounded part of it. So at batch 1, where a step
// costs its weights whatever it computes, drafts are long; where the machine computes, there are none. And no draft
// makes a step longer than the inter-token target.
// Thread-safety: pure function.  Cost: O(sequences * drafts); allocates nothing once *rows has grown.  Source: ours.
#ifndef DUNLIN_WORKER_SCHEDULER_DRAFT_PLANNER_H_
#define DUNLIN_WORKER_SCHEDULER_DRAFT_PLANNER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "worker/scheduler/step_time_model.h"

namespace dunlin::worker {

inline constexpr int32_t kMaxDraftTokens = 16;  // of one sequence and step

// A sequence that gets one row in any case.
struct DraftView {
  int64_t context = 0;  // tokens that a row of it attends to
  int32_t most = 0;     // drafted tokens at hand
  // For each of them: the chance that it is drawn, given that those before it were.
  std::array<float, static_cast<size_t>(kMaxDraftTokens)> chance{};
};

// When a draft is verified: when that is worth its time, or whenever there is one and room in the step (for tests).
enum class Drafting : uint8_t { kWhenWorthIt, kAlways };

struct DraftLimits {
  int32_t max_rows = 256;  // of the step, those that the sequences get anyway included
  absl::Duration target = absl::InfiniteDuration();
  Drafting drafting = Drafting::kWhenWorthIt;
};

// *rows: drafted tokens per sequence, 0 = none. step: whoever comes first changes with it.
void PlanDrafts(std::span<const DraftView> sequences, const DraftLimits& limits, uint64_t step,
                const StepTimeModel& model, std::vector<int32_t>* rows);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_DRAFT_PLANNER_H_
