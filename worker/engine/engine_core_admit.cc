// The beginning of a step: which sequences end whatever they are doing, and which ones join.
#include <algorithm>
#include <utility>

#include "worker/engine/engine_core.h"

namespace dunlin::worker {
namespace {

// A sequence that did not fit although its cached prefix seemed to make it small enough is tried again after so many
// steps: the try costs as much as joining.
constexpr uint64_t kRetrySteps = 16;

ReservationInput InputOf(const Sequence& s) {
  return {s.prompt_tokens, s.num_generated(), s.limit_tokens - s.prompt_tokens, s.preemptions};
}

}  // namespace

// Protected ones, preempted so often that they must not be again, are always promised everything.
int32_t EngineCore::PromisedPages(const Sequence& s) const {
  const ReservationInput input = InputOf(s);
  if (options_.promise == AdmissionPromise::kWorstCase) return WorstCasePages(input, pages_.page_tokens());
  if (options_.promise == AdmissionPromise::kTokens && s.preemptions < kMaxPreemptions) {
    return pages_.PagesFor(s.num_tokens());
  }
  return ReservePages(input, predictor_, pages_.page_tokens());
}

void EngineCore::Reap(absl::Time now) {
  next_due_ = waiting_.EndIf(
      now, [&](Sequence* s) { return Judge(s, now, options_); },
      [&](Sequence* s, Verdict verdict) { End(s, std::move(verdict)); });
  std::erase_if(running_, [&](const std::unique_ptr<Sequence>& s) {
    const bool was_paused = s->paused;
    std::optional<Verdict> verdict = Judge(s.get(), now, options_);
    next_due_ = std::min(next_due_, s->due);
    decodes_only_ = decodes_only_ && s->paused == was_paused;
    if (!verdict.has_value()) return false;
    End(s.get(), *std::move(verdict));
    return true;
  });
  last_look_ = now;
}

AdmissionNeed EngineCore::NeedOf(Sequence* s, int32_t free_pages) {
  AdmissionNeed need;
  need.pages = PromisedPages(*s);
  need.cached_tokens = pages_.CachedTokens(s);
  // Its cached pages cost nothing if others hold them already. Whether they do only opening it shows.
  if (need.pages > free_pages && next_step() >= s->next_try_step) {
    need.pages -= need.cached_tokens / pages_.page_tokens();
  }
  return need;
}

void EngineCore::Admit(absl::Time now) {
  if (waiting_.empty()) return;
  std::unique_ptr<Sequence> refused;
  absl::Status device;
  waiting_.BeginRound();
  while (running_.size() < static_cast<size_t>(options_.max_num_seqs)) {
    const int32_t free_pages = std::max(0, pages_.spare());
    std::unique_ptr<Sequence> s = waiting_.Next(free_pages, [&](Sequence* w) { return NeedOf(w, free_pages); });
    if (s == nullptr) break;
    const absl::StatusOr<bool> opened = pages_.Open(s.get(), PromisedPages(*s));
    if (opened.ok() && !*opened) {
      s->next_try_step = next_step() + kRetrySteps;
      refused = std::move(s);
      break;
    }
    Start(s.get(), now);
    running_.push_back(std::move(s));
    device = opened.status();
    if (!device.ok()) break;
  }
  waiting_.EndRound();
  if (refused != nullptr) waiting_.Add(std::move(refused));
  if (!device.ok()) LoseDevice(device);
  DropFinished();
}

// The sequence has its pages. Only the first time is it news to its client.
void EngineCore::Start(Sequence* s, absl::Time now) {
  s->admitted_step = s->last_advanced = next_step();
  next_due_ = std::min(next_due_, s->due);
  s->num_once_computed = std::max(s->num_once_computed, s->num_computed);
  if (s->was_admitted()) return;
  NewSequence& r = s->request;
  ++num_left_queue_;
  s->admitted = now;
  std::vector<int32_t> ending = r.stop_tokens;
  if (!r.ignore_eos) ending.insert(ending.end(), options_.end_of_generation.begin(), options_.end_of_generation.end());
  s->sampler.emplace(r.sampling, s->tokens, s->limit_tokens - s->prompt_tokens, r.min_tokens, ending, r.num_logprobs);
  s->tokens.reserve(static_cast<size_t>(s->limit_tokens));
  drafter_.Begin(s);
  s->cached_prompt_tokens = s->num_computed;
  tenants_.ChargeInput(s->tenant, s->prompt_tokens - s->num_computed, s->num_computed);
  const bool asked = options_.enable_prefix_caching && s->may_share();
  if (asked) stats_.prefix_query_tokens += static_cast<uint64_t>(s->prompt_tokens);
  stats_.prefix_hit_tokens += static_cast<uint64_t>(s->num_computed);
  r.stream->PushScheduled(static_cast<uint32_t>(s->cached_prompt_tokens));
  if (observer_ != nullptr) observer_->OnScheduled(now - s->arrival);
}

}  // namespace dunlin::worker
