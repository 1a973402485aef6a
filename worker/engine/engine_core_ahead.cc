// Running ahead: the next step is planned, built and submitted while the device is at the one before it, and the tokens
// of that one are looked at while the device is at the next. A sequence that decodes goes on as if its token, which
// nobody knows yet, did not end it: its row names the output that will draw the token. If it ends after all, what that
// row brings is dropped, and its pages, the row's too, are free as soon as the end is known: steps and moves take
// effect in the order of the calls, so whoever gets a page writes it after the row has. Nothing that a client sees
// depends on it, except time.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/check.h"
#include "worker/engine/engine_core.h"

namespace dunlin::worker {

// A step is in flight. Without a batch beside it there is its result to wait for.
bool EngineCore::PrepareAhead() {
  ClearBatch();
  has_drafts_ = false;
  if (running_.empty() || NeedsResult()) return true;
  PlanRows();
  ClaimRows();
  ReserveRows();
  stats_.steps_ahead += BuildBatch() ? 1 : 0;
  return !in_flight_.empty();  // unless the device was lost
}

// Whether the next step is better planned when the result is there: a page was missing, so that somebody may have to be
// preempted; a draw depends on the token itself, by penalties; or the token would be followed by a draft.
bool EngineCore::NeedsResult() {
  if (needs_result_) return true;
  bool computes_prompts = false;
  decoders_.clear();
  for (const auto& s : running_) {
    if (s->paused || s->finishing()) continue;
    if (s->unknown_tokens > 0 && s->sampler->penalised()) return true;
    if (s->decoding()) {
      decoders_.push_back(s.get());
    } else {
      computes_prompts = true;
    }
  }
  return !computes_prompts && drafter_.Wants(decoders_, next_step(), step_time_);
}

// Two steps in flight are only for as long as it takes to wait for the first. How many tokens one with drafts brings is
// known when it is over.
void EngineCore::ExecuteAhead() {
  const bool submits = !step_.planned.empty();
  if (submits && !SubmitStep()) return;
  if (in_flight_.size() == StepsInFlight::kMost || !submits || has_drafts_) WaitForStep();
}

bool EngineCore::SubmitStep() {
  DescribeStep();
  if (absl::Status status = runner_->Submit(builder_.Finish()); !status.ok()) {
    pages_.FailStep();
    LoseDevice(status);
    return false;
  }
  int32_t output = 0;
  for (Planned& p : step_.planned) {
    AdvanceSequence(&p);
    output += p.num_judged;
    p.sequence->unknown_output = p.num_draws > 0 ? output : -1;
    output += p.num_draws;
  }
  pages_.EndStep();
  pages_.set_device_busy(true);
  std::swap(in_flight_.Push(), step_);
  step_.planned.clear();
  ReportCacheEvents();
  return true;
}

void EngineCore::WaitForStep() {
  if (in_flight_.empty()) return;  // the device was lost
  if (absl::Status status = runner_->Wait(&result_); !status.ok()) {
    LoseDevice(status);
    return;
  }
  in_flight_.Pop(&step_);
  pages_.set_device_busy(!in_flight_.empty());
  const absl::Time now = clock_->Now();
  CountStep(now - std::max(step_.begin, std::exchange(last_result_, now)));
  Absorb(now);
  step_.planned.clear();
}

}  // namespace dunlin::worker
