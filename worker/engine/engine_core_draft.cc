// Speculation: guessed tokens are verified in a step beside those that are known, and this is what comes of them. A
// row of a draft draws with the seed and position that the step after it would use, so a token that agrees with its
// draft is the very token that would have been drawn, and one that does not is it as well: only the rows behind it are
// void. Nothing that a client sees depends on what was drafted, except time.
#include <cstddef>

#include "worker/engine/engine_core.h"

namespace dunlin::worker {

// Only now that everybody has what is needed.
void EngineCore::DraftRows() {
  decoders_.clear();
  has_drafts_ = false;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (running_[i] == nullptr || rows_[i] == 0) continue;
    if (!views_[i].decoding) return;  // the step computes prompts: no row of it is free
    decoders_.push_back(running_[i].get());
  }
  has_drafts_ = drafter_.Add(decoders_, next_step(), step_time_, &pages_);
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
