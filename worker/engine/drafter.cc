#include "worker/engine/drafter.h"

#include <algorithm>
#include <cstddef>

#include "worker/engine/verdict.h"

namespace dunlin::worker {

Drafter::Drafter(const EngineOptions& options, int32_t max_rows) : options_(options) {
  limits_.max_rows = max_rows;
  limits_.drafting = options.drafting;
  if (options.inter_token_target > absl::ZeroDuration()) limits_.target = options.inter_token_target;
  views_.reserve(static_cast<size_t>(options.max_num_seqs));
  rows_.reserve(static_cast<size_t>(options.max_num_seqs));
}

void Drafter::Begin(Sequence* s) const {
  if (s->sampler->penalised()) return;  // its next draw needs the tokens before it
  s->max_draft = std::min(options_.num_speculative_tokens, s->request.max_draft_tokens);
  if (s->max_draft == 0) return;
  s->lookup.emplace(s->tokens, s->limit_tokens);
  s->draft.reserve(static_cast<size_t>(s->max_draft));
}

DraftView Drafter::Draft(Sequence* s) const {
  DraftView view;
  view.context = s->num_computed;
  if (!s->lookup.has_value()) return view;
  // The last row draws the last token.
  const int32_t most = std::min(s->max_draft, s->limit_tokens - s->num_tokens() - 1);
  s->draft.resize(static_cast<size_t>(std::max(0, most)));
  if (!s->lookup->Draft(s->tokens, s->draft)) s->draft.clear();
  const auto ends = [&](int32_t token) { return EndsGeneration(*s, token, options_) || IsStopToken(*s, token); };
  view.most = static_cast<int32_t>(std::find_if(s->draft.begin(), s->draft.end(), ends) - s->draft.begin());
  for (int32_t i = 0; i < view.most; ++i) view.chance[static_cast<size_t>(i)] = s->lookup->Chance(i);
  return view;
}

bool Drafter::Add(std::span<Sequence* const> decoders, uint64_t step, const StepTimeModel& model,
                  SequencePages* pages) {
  if (options_.num_speculative_tokens == 0) return false;
  views_.clear();
  for (Sequence* s : decoders) views_.push_back(Draft(s));
  PlanDrafts(views_, limits_, step, model, &rows_);
  bool any = false;
  for (size_t i = 0; i < decoders.size(); ++i) {
    Sequence* const s = decoders[i];
    const int32_t rows = std::min(rows_[i], pages->AffordableRows(*s) - 1);
    const bool granted = rows > 0 && pages->Grow(s, 1 + rows) == kv::ReserveOutcome::kGranted;
    s->draft.resize(granted ? static_cast<size_t>(rows) : 0);
    any = any || granted;
  }
  return any;
}

bool Drafter::Wants(std::span<Sequence* const> decoders, uint64_t step, const StepTimeModel& model) {
  if (options_.num_speculative_tokens == 0) return false;
  views_.clear();
  for (Sequence* s : decoders) {
    views_.push_back(Draft(s));
    s->draft.clear();
  }
  PlanDrafts(views_, limits_, step, model, &rows_);
  return std::any_of(rows_.begin(), rows_.end(), [](int32_t rows) { return rows > 0; });
}

}  // namespace dunlin::worker
