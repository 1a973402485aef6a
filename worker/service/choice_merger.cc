#include "worker/service/choice_merger.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "base/check.h"

namespace dunlin::worker {
namespace {

// Keeps one message of prompt records well under a megabyte.
constexpr size_t kPromptRecordsPerMessage = 1024;

void FillLogprob(const TokenLogprob& from, v1::TokenLogprob* to) {
  to->set_logprob(from.logprob);
  to->set_rank(static_cast<uint32_t>(std::max(0, from.rank)));
  for (const int32_t id : from.top_ids) to->add_top_ids(static_cast<uint32_t>(id));
  to->mutable_top_logprobs()->Add(from.top_logprobs.begin(), from.top_logprobs.end());
}

dunlin::v1::FinishReason Reason(FinishCause cause) {
  switch (cause) {
    case FinishCause::kStopToken:
      return dunlin::v1::FINISH_REASON_STOP;
    case FinishCause::kEos:
      return dunlin::v1::FINISH_REASON_EOS;
    case FinishCause::kLength:
      return dunlin::v1::FINISH_REASON_LENGTH;
    case FinishCause::kContextFull:
      return dunlin::v1::FINISH_REASON_CONTEXT_FULL;
    case FinishCause::kMaxTime:
      return dunlin::v1::FINISH_REASON_DEADLINE;
    case FinishCause::kCancelled:
      return dunlin::v1::FINISH_REASON_CANCELLED;
    case FinishCause::kError:
      return dunlin::v1::FINISH_REASON_ERROR;
  }
  return dunlin::v1::FINISH_REASON_ERROR;
}

void SetDuration(absl::Duration from, google::protobuf::Duration* to) {
  const absl::Duration bounded = std::clamp(from, absl::ZeroDuration(), absl::Hours(24 * 365));
  to->set_seconds(absl::ToInt64Seconds(bounded));
  to->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(bounded - absl::Seconds(to->seconds()))));
}

// The request as its client saw it: the earliest first token, the longest wait of each kind, sums of what was used.
SequenceTiming MergeTiming(const std::vector<std::optional<SequenceEnd>>& ends) {
  SequenceTiming all = ends.front()->timing;
  for (size_t i = 1; i < ends.size(); ++i) {
    const SequenceTiming& t = ends[i]->timing;
    all.queue = std::min(all.queue, t.queue);
    all.prefill = std::min(all.prefill, t.prefill);
    all.ttft = std::min(all.ttft, t.ttft);
    all.decode = std::max(all.decode, t.decode);
    all.itl_p50 = std::max(all.itl_p50, t.itl_p50);
    all.itl_p99 = std::max(all.itl_p99, t.itl_p99);
    all.itl_max = std::max(all.itl_max, t.itl_max);
    all.preemptions += t.preemptions;
    all.kv_pages_peak += t.kv_pages_peak;
    all.draft_tokens += t.draft_tokens;
    all.accepted_draft_tokens += t.accepted_draft_tokens;
    all.bytes_read += t.bytes_read;
  }
  return all;
}

}  // namespace

ChoiceMerger::ChoiceMerger(std::vector<std::shared_ptr<TokenStream>> streams, size_t num_prompt_logprobs)
    : streams_(std::move(streams)),
      ends_(streams_.size()),
      open_(streams_.size()),
      prompt_logprobs_left_(num_prompt_logprobs) {
  CHECK(!streams_.empty()) << "a request without choices";
}

void ChoiceMerger::NeverBegan(size_t index, const absl::Status& status) {
  CHECK(!status.ok()) << "a choice that never began needs a reason";
  for (size_t i = index; i < streams_.size(); ++i) {
    ends_[i].emplace();
    --open_;
  }
  status_ = status;
}

bool ChoiceMerger::Next(v1::GenerateResponse* message) {
  // A mailbox reports news once until it is read: with the client gone all must still be read, or nobody would ever
  // hear of their ends.
  if (discard_) pending_.clear();
  if (pending_.empty()) Sweep();
  if (discard_) pending_.clear();
  if (pending_.empty()) return false;
  *message = std::move(pending_.front());
  pending_.pop_front();
  return true;
}

void ChoiceMerger::Sweep() {
  for (size_t i = 0; i < streams_.size(); ++i) {
    // Readers want the whole prompt before the first token of any choice; the others wait in their mailboxes.
    if (i > 0 && prompt_logprobs_left_ > 0) break;
    if (!ends_[i].has_value() && streams_[i]->Take(&scratch_)) TakeUpdate(i, &scratch_);
  }
  if (open_ == 0 && !summarised_ && status_.ok()) Summarise();
}

void ChoiceMerger::TakeUpdate(size_t index, StreamUpdate* update) {
  if (update->scheduled && !scheduled_) {
    scheduled_ = true;
    pending_.emplace_back().mutable_scheduled()->set_cached_prompt_tokens(update->cached_prompt_tokens);
  }
  if (index == 0 && update->prefill_done_tokens > progress_tokens_ && update->tokens.empty() && !update->end) {
    progress_tokens_ = update->prefill_done_tokens;
    pending_.emplace_back().mutable_progress()->set_prefill_done_tokens(progress_tokens_);
  }
  if (index == 0) {
    const std::vector<TokenLogprob>& records = update->prompt_logprobs;
    for (size_t i = 0; i < records.size(); ++i) {
      if (i % kPromptRecordsPerMessage == 0) pending_.emplace_back().mutable_prompt();
      FillLogprob(records[i], pending_.back().mutable_prompt()->add_logprobs());
    }
    prompt_logprobs_left_ -= std::min(prompt_logprobs_left_, records.size());
  }
  if (!update->tokens.empty()) {
    v1::Tokens* tokens = pending_.emplace_back().mutable_tokens();
    tokens->set_index(static_cast<uint32_t>(index));
    for (const int32_t id : update->tokens) tokens->add_ids(static_cast<uint32_t>(id));
    for (const TokenLogprob& record : update->logprobs) FillLogprob(record, tokens->add_logprobs());
  }
  if (update->end.has_value()) End(index, *update->end);
}

void ChoiceMerger::End(size_t index, const SequenceEnd& end) {
  ends_[index] = end;
  --open_;
  if (index == 0) prompt_logprobs_left_ = 0;
  if (!end.status.ok()) {
    // The first reason stands; the cancellations that follow from it are its consequence.
    if (status_.ok() || absl::IsCancelled(status_)) status_ = end.status;
    return;
  }
  v1::Finished* finished = pending_.emplace_back().mutable_finished();
  finished->set_index(static_cast<uint32_t>(index));
  finished->set_reason(Reason(end.cause));
  if (end.cause == FinishCause::kStopToken && end.stop_token >= 0) {
    finished->set_stop_token_id(static_cast<uint32_t>(end.stop_token));
  }
}

void ChoiceMerger::Summarise() {
  summarised_ = true;
  v1::Summary* summary = pending_.emplace_back().mutable_summary();
  dunlin::v1::Usage* usage = summary->mutable_usage();
  usage->set_prompt_tokens(ends_.front()->prompt_tokens);
  usage->set_cached_prompt_tokens(ends_.front()->cached_prompt_tokens);
  uint32_t completion_tokens = 0;
  for (const std::optional<SequenceEnd>& end : ends_) completion_tokens += end->completion_tokens;
  usage->set_completion_tokens(completion_tokens);
  const SequenceTiming all = MergeTiming(ends_);
  dunlin::v1::Timing* timing = summary->mutable_timing();
  SetDuration(all.queue, timing->mutable_queue());
  SetDuration(all.prefill, timing->mutable_prefill());
  SetDuration(all.ttft, timing->mutable_ttft());
  SetDuration(all.decode, timing->mutable_decode());
  SetDuration(all.itl_p50, timing->mutable_itl_p50());
  SetDuration(all.itl_p99, timing->mutable_itl_p99());
  SetDuration(all.itl_max, timing->mutable_itl_max());
  timing->set_preemptions(all.preemptions);
  timing->set_kv_pages_peak(all.kv_pages_peak);
  timing->set_draft_tokens(all.draft_tokens);
  timing->set_accepted_draft_tokens(all.accepted_draft_tokens);
  timing->set_bytes_read(all.bytes_read);
}

}  // namespace dunlin::worker
