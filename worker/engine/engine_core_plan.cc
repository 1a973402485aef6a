// The middle of a step: how many rows each sequence gets, the pages for them, and the batch.
#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>

#include "base/check.h"
#include "worker/engine/engine_core.h"

namespace dunlin::worker {

void EngineCore::PlanRows() {
  views_.clear();
  for (const auto& s : running_) {
    if (!s->decoding() && !s->paused && !s->finishing()) {
      const int32_t adopted = pages_.Adopt(s.get());
      s->num_once_computed = std::max(s->num_once_computed, s->num_computed);
      if (s->preemptions == 0) {
        s->cached_prompt_tokens += adopted;
        stats_.prefix_hit_tokens += static_cast<uint64_t>(adopted);
      }
    }
    views_.push_back(s->row_view());
  }
  const bool targeted = options_.inter_token_target > absl::ZeroDuration();
  time_limit_ =
      targeted ? RowPlanner::TimeLimit(views_, step_time_, options_.inter_token_target) : StepTimeModel::kUnlimited;
  planner_.Plan(views_, next_step(), time_limit_, &plan_);
  ++stats_.plans;
}

// Two sequences that would compute the same page in this step: the second one waits and shares the first one's.
void EngineCore::ClaimRows() {
  claimant_stopped_ = false;
  const auto prompts = std::count_if(views_.begin(), views_.end(), [](const RowView& v) { return !v.decoding; });
  if (!options_.enable_prefix_caching || prompts < 2) return;
  const auto claim = [this] {
    bool refused = false;
    for (size_t i = 0; i < views_.size(); ++i) {
      if (views_[i].decoding || plan_[i] == 0 || pages_.Claim(*running_[i], plan_[i])) continue;
      views_[i].blocked = true;
      plan_[i] = 0;
      refused = true;
    }
    return refused;
  };
  if (!claim()) return;
  // Their rows go to others. More rows may reach into claimed pages; who is refused only now just sits the step out.
  rows_ = plan_;
  planner_.Plan(views_, next_step(), time_limit_, &plan_);
  claim();
  for (size_t i = 0; i < rows_.size(); ++i) {
    claimant_stopped_ = claimant_stopped_ || (rows_[i] > 0 && plan_[i] == 0 && !views_[i].blocked);
  }
}

void EngineCore::ReserveRows() {
  rows_ = plan_;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (views_[i].decoding) ReserveFor(i);
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!views_[i].decoding) ReserveFor(i);
  }
  for (size_t i = 0; i < rows_.size(); ++i) {  // only now: whoever has rows already may have been preempted since
    claimant_stopped_ = claimant_stopped_ || (!views_[i].decoding && plan_[i] > 0 && rows_[i] == 0);
  }
  if (claimant_stopped_) UnblockRows();
}

// Nobody waits for a sequence that does not advance: the rows that are left go to those that were to wait, even if one
// or the other page is computed twice then.
void EngineCore::UnblockRows() {
  int32_t left = planner_.limits().max_rows - std::accumulate(rows_.begin(), rows_.end(), 0);
  for (size_t i = 0; i < rows_.size() && left > 0; ++i) {
    if (!views_[i].blocked || running_[i] == nullptr) continue;
    rows_[i] = std::min(left, views_[i].remaining);
    ReserveFor(i);
    left -= rows_[i];
  }
}

// Pages for the rows of running_[i]: fewer rows for a prompt when that helps, else others give way, else it does
// itself.
void EngineCore::ReserveFor(size_t i) {
  if (running_[i] == nullptr || rows_[i] == 0) return;
  Sequence* const s = running_[i].get();
  for (;;) {
    const int32_t rows = rows_[i] == 1 ? 1 : std::clamp(pages_.AffordableRows(*s), 1, rows_[i]);
    switch (pages_.Grow(s, rows)) {
      case kv::ReserveOutcome::kGranted:
        rows_[i] = rows;
        return;
      case kv::ReserveOutcome::kWaitForPins:
        rows_[i] = 0;
        return;
      case kv::ReserveOutcome::kFull:
        needs_result_ = !in_flight_.empty();  // who would give way may have ended, and cannot before it is known
        const int32_t victim = needs_result_ ? -1 : victims_.Choose(running_, i, pages_);
        if (victim < 0) {
          rows_[i] = 0;
          return;
        }
        Preempt(static_cast<size_t>(victim));
        if (running_[i] == nullptr) return;
    }
  }
}

// Its full pages are published already, so they stay cached for its return unless somebody needs them.
void EngineCore::Preempt(size_t i) {
  std::unique_ptr<Sequence> s = std::move(running_[i]);
  CHECK_EQ(s->steps_in_flight, 0);
  rows_[i] = 0;
  pages_.Close(s.get());
  ++s->preemptions;
  ++stats_.preemptions;
  predictor_.OnPreemption();
  waiting_.Add(std::move(s));
}

bool EngineCore::BuildBatch() {
  ClearBatch();
  decodes_only_ = true;
  if (absl::Status status = pages_.RunMoves(); !status.ok()) {
    std::erase(running_, nullptr);
    LoseDevice(status);
    return false;
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (running_[i] == nullptr) continue;
    Sequence* const s = running_[i].get();
    if (rows_[i] > 0 || plan_[i] > 0 || views_[i].paused || views_[i].blocked) s->last_advanced = next_step();
    decodes_only_ = decodes_only_ && (s->paused || (rows_[i] > 0 && views_[i].decoding));
    if (rows_[i] > 0) AddToBatch(s, rows_[i]);
  }
  std::erase(running_, nullptr);
  decodes_only_ = decodes_only_ && !step_.planned.empty();
  if (step_.planned.empty()) pages_.EndStep();
  return !step_.planned.empty();
}

void EngineCore::ClearBatch() {
  builder_.Clear();
  step_.planned.clear();
  step_.context = 0;
}

void EngineCore::AddToBatch(Sequence* s, int32_t num_rows) {
  const int32_t end = s->num_computed + num_rows;
  const auto drafted = static_cast<int32_t>(s->draft.size());
  const int64_t all_rows = num_rows + drafted;
  step_.context += all_rows * s->num_computed + all_rows * all_rows / 2;
  if (s->unknown_tokens > 0) {
    builder_.AddUnknownToken(s->unknown_output, s->num_computed, pages_.TableOf(*s));
  } else {
    builder_.AddSequence(
        std::span(s->tokens).subspan(static_cast<size_t>(s->num_computed), static_cast<size_t>(num_rows)),
        s->num_computed, pages_.TableOf(*s), !s->decoding());
  }
  if (drafted > 0) builder_.AddDraft(s->draft, pages_.TableOf(*s));
  Planned planned{s, s->num_computed, num_rows + drafted, 0, 0, s->decoding(), false};
  if (s->judges_prompt) {
    for (int32_t p = std::max(s->num_computed, s->num_judged); p < end && p + 1 < s->prompt_tokens; ++p) {
      builder_.AddOutput(p - s->num_computed,
                         JudgeToken(s->tokens[static_cast<size_t>(p) + 1], p + 1, s->request.num_prompt_logprobs));
      ++planned.num_judged;
    }
  }
  if (s->generates && end == s->num_planned()) {
    for (int32_t i = 0; i <= drafted; ++i) {
      builder_.AddOutput(num_rows - 1 + i, s->sampler->Next(end + i, s->unknown_tokens + i));
    }
    planned.num_draws = 1 + drafted;
  }
  step_.planned.push_back(planned);
}

// Between the steps of one plan: whether nobody needs the engine and the same sequences can decode once more.
bool EngineCore::GoOnDecoding() {
  if (!decodes_only_ || clock_->Now() >= next_due_ || (interrupt_ && interrupt_())) return false;
  for (const Planned& p : step_.planned) {
    const TokenStream& stream = *p.sequence->stream;
    if (stream.cancelled() || stream.unread_bytes() > options_.max_unread_bytes) return false;
  }
  return DecodeAgain();
}

// The last step only decoded, and every sequence of it would get its row again: its batch, one token further. False,
// and the plan is to be made anew, when there are not pages for all.
bool EngineCore::DecodeAgain() {
  int32_t beyond = 0;
  for (const Planned& p : step_.planned) beyond += pages_.PagesBeyond(*p.sequence, 1);
  if (beyond > pages_.spare()) return false;
  for (const Planned& p : step_.planned) {
    if (pages_.Grow(p.sequence, 1) == kv::ReserveOutcome::kGranted) continue;
    pages_.EndStep();
    return false;
  }
  decoders_.clear();
  for (const Planned& p : step_.planned) decoders_.push_back(p.sequence);
  const bool had_drafts = std::exchange(has_drafts_, drafter_.Add(decoders_, next_step(), step_time_, &pages_));
  if (absl::Status status = pages_.RunMoves(); !status.ok()) {
    LoseDevice(status);
    return false;
  }
  if (had_drafts || has_drafts_) {
    ClearBatch();
    for (Sequence* s : decoders_) AddToBatch(s, 1);
    return true;
  }
  for (size_t i = 0; i < step_.planned.size(); ++i) {
    const Sequence& s = *step_.planned[i].sequence;
    builder_.Advance(i, s.tokens.back(), pages_.TableOf(s), s.sampler->Next(s.num_tokens()));
  }
  step_.context += static_cast<int64_t>(step_.planned.size());
  return true;
}

}  // namespace dunlin::worker
