// Speculation: which tokens are guessed and verified in a step beside those that are known, and what comes of them. A
// row of a draft draws with the seed and position that the step after it would use, so a token that agrees with its
// draft is the very token that would have been drawn, and one that does not is it as well: only the rows behind it are
// void. Nothing that a client sees depends on what was drafted, except time.
#include <algorithm>
#include <cstddef>

#include "worker/engine/engine_core.h"

namespace dunlin::worker {

// Tokens of the sequence that may be drafted in a step.
int32_t EngineCore::MostDraft(const Sequence& s) const {
  if (s.sampler->penalised()) return 0;  // its next draw needs the tokens before it
  return std::min(options_.num_speculative_tokens, s.request.max_draft_tokens);
}

// What may be verified of the sequence's draft: no token beyond its limit, none that would end it.
DraftView EngineCore::Draft(Sequence* s) const {
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

// Drafts for the sequences of decoders_, which have their rows of this step, while nobody else has any. They get room
// in pages that are promised to nobody else, and only now that everybody has what is needed; true when there are any.
bool EngineCore::AddDrafts() {
  if (options_.num_speculative_tokens == 0) return false;
  draft_views_.clear();
  for (Sequence* s : decoders_) draft_views_.push_back(Draft(s));
  DraftLimits limits;
  limits.max_rows = planner_.limits().max_rows;
  limits.drafting = options_.drafting;
  if (options_.inter_token_target > absl::ZeroDuration()) limits.target = options_.inter_token_target;
  PlanDrafts(draft_views_, limits, stats_.steps, step_time_, &draft_rows_);
  bool any = false;
  for (size_t i = 0; i < decoders_.size(); ++i) {
    Sequence* const s = decoders_[i];
    const int32_t rows = std::min(draft_rows_[i], pages_.AffordableRows(*s) - 1);
    const bool granted = rows > 0 && pages_.Grow(s, 1 + rows) == kv::ReserveOutcome::kGranted;
    s->draft.resize(granted ? static_cast<size_t>(rows) : 0);
    any = any || granted;
  }
  return any;
}

void EngineCore::DraftRows() {
  decoders_.clear();
  has_drafts_ = false;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (running_[i] == nullptr || rows_[i] == 0) continue;
    if (!views_[i].decoding) return;  // the step computes prompts: no row of it is free
    decoders_.push_back(running_[i].get());
  }
  has_drafts_ = AddDrafts();
}

// outputs: of the sequence's own row, whose token it has by now, and of its draft's. As far as the draft was right, its
// rows are those of known tokens, and each brings what a step of its own would have brought.
void EngineCore::AbsorbDraft(Sequence* s, std::span<const kernels::SampleResult> outputs, absl::Time now) {
  size_t right = 0;
  while (s->kv.has_value() && right < s->draft.size() && s->tokens.back() == s->draft[right]) {
    ++right;
    ++s->accepted_draft_tokens;
    ++stats_.accepted_draft_tokens;
    AdvanceRows(s, 1);
    AppendToken(s, outputs[right], now);
  }
  if (s->kv.has_value() && right < s->draft.size()) pages_.DropDraft(s);
  s->draft.clear();
}

}  // namespace dunlin::worker
