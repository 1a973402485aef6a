// How sequences end, and what is told to whom then.
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine/engine_core.h"

namespace dunlin::worker {
namespace {

bool EndedByItself(FinishCause cause) {
  return cause == FinishCause::kEos || cause == FinishCause::kStopToken || cause == FinishCause::kLength ||
         cause == FinishCause::kContextFull;
}

SequenceTiming TimingOf(const Sequence& s, absl::Time now) {
  SequenceTiming t;
  t.queue = (s.was_admitted() ? s.admitted : now) - s.arrival;
  if (s.was_admitted()) t.prefill = (s.num_generated() > 0 ? s.first_token : now) - s.admitted;
  if (s.num_generated() > 0) {
    t.ttft = s.first_token - s.arrival;
    t.decode = now - s.first_token;
    t.itl_p50 = s.itl.Percentile(0.5);
    t.itl_p99 = s.itl.Percentile(0.99);
    t.itl_max = s.itl.max();
  }
  t.preemptions = static_cast<uint32_t>(s.preemptions);
  t.kv_pages_peak = static_cast<uint32_t>(s.pages_peak);
  t.draft_tokens = static_cast<uint32_t>(s.draft_tokens);
  t.accepted_draft_tokens = static_cast<uint32_t>(s.accepted_draft_tokens);
  t.bytes_read = static_cast<uint64_t>(s.bytes_read);
  return t;
}

}  // namespace

void EngineCore::End(Sequence* s, Verdict verdict, int32_t stop_token) {
  const absl::Time now = clock_->Now();
  decodes_only_ = false;
  if (s->steps_in_flight > 0) stats_.void_rows += static_cast<uint64_t>(in_flight_.Discard(s));
  if (s->kv.has_value()) pages_.Close(s);
  tenants_.Release(s->tenant);
  if (!s->was_admitted()) ++num_left_queue_;
  if (EndedByItself(verdict.cause)) predictor_.Observe(s->num_generated(), s->limit_tokens - s->prompt_tokens);
  if (verdict.cause == FinishCause::kCancelled && observer_ != nullptr) {
    // Without the caller's word, since the engine last saw it uncancelled: never less than the truth.
    const absl::Time told = s->request.stream->cancel_time();
    const bool is_told = told != absl::InfiniteFuture();
    observer_->OnCancelToFree(now - (is_told ? std::min(told, now) : std::max(s->arrival, last_look_)));
  }
  SequenceEnd end;
  end.cause = verdict.cause;
  end.stop_token = stop_token;
  end.status = std::move(verdict.status);
  end.prompt_tokens = static_cast<uint32_t>(s->prompt_tokens);
  end.cached_prompt_tokens = static_cast<uint32_t>(s->cached_prompt_tokens);
  end.completion_tokens = static_cast<uint32_t>(s->num_generated());
  end.timing = TimingOf(*s, now);
  ended_.emplace_back(s->request.stream, std::move(end));
}

void EngineCore::FailAll(const absl::Status& status) {
  waiting_.Clear([&](Sequence* s) { End(s, {FinishCause::kError, status}); });
  for (auto& s : running_) End(s.get(), {FinishCause::kError, status});
  running_.clear();
  // The runner is quiet from now on: it may go, and so may what it writes to.
  for (; !in_flight_.empty(); in_flight_.Pop(&step_)) (void)runner_->Wait(&result_);
}

void EngineCore::LoseDevice(const absl::Status& status) {
  stats_.lost_device = true;
  in_flight_.ForEach([this](Planned* p) {
    if (p->sequence != nullptr) pages_.Distrust(*p->sequence, p->first, p->first + p->num_rows);
  });
  in_flight_.Clear();
  FailAll(absl::UnavailableError(absl::StrCat("the worker has lost its device: ", status.ToString())));
  Flush();
}

void EngineCore::DeliverEnds() {
  for (auto& [stream, end] : ended_) stream->PushEnd(std::move(end));
  ended_.clear();
}

int32_t EngineCore::Flush() {
  const int32_t pages = pages_.Flush();
  ReportCacheEvents();
  return pages;
}

void EngineCore::ReportCacheEvents() {
  if (!options_.record_cache_events) return;
  events_.added.clear();
  events_.removed.clear();
  pages_.TakeEvents(&events_);
  if (observer_ == nullptr || (events_.added.empty() && events_.removed.empty())) return;
  observer_->OnCacheEvents(events_.added, events_.removed);
}

// Whenever the last sequence is gone. A failure is counted and told once: the worker goes on serving.
void EngineCore::WhenIdle() {
  if (checked_idle_) return;
  checked_idle_ = true;
  const std::string error = CheckIdle();
  if (error.empty()) return;
  if (stats_.invariant_failures++ == 0)
    std::fprintf(stderr, "an invariant of the idle engine fails: %s\n", error.c_str());
}

}  // namespace dunlin::worker
