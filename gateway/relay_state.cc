#include "gateway/relay_state.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

// A prompt's records travel in events of at most this many tokens: with 20 alternatives each, one event of a long
// prompt would exceed a client's message limit.
constexpr size_t kPromptTokensPerEvent = 256;

ChoiceOptions OptionsOfChoice(const RequestPlan& plan, uint32_t index) {
  ChoiceOptions options;
  options.index = index;
  options.stop.assign(plan.stopping.stop().begin(), plan.stopping.stop().end());
  options.stop_token_ids.assign(plan.stopping.stop_token_ids().begin(), plan.stopping.stop_token_ids().end());
  options.min_tokens = plan.stopping.min_tokens();
  options.include_stop = plan.stopping.include_stop();
  options.text = !plan.output.has_text() || plan.output.text();
  options.token_ids = plan.output.token_ids();
  options.logprobs = plan.output.has_logprobs();
  options.stream_interval_tokens = std::max(plan.output.stream_interval_tokens(), 1u);
  return options;
}

}  // namespace

RelayState::RelayState(const model::Tokenizer* tokenizer, const Clock* clock, StreamObserver* observer)
    : tokenizer_(tokenizer), timing_(clock, observer) {}

void RelayState::Begin(RequestPlan plan, absl::Duration queued) {
  CHECK(!begun_) << "a stream begins once";
  if (ended_) return;
  begun_ = true;
  plan_ = std::move(plan);
  timing_.SetQueued(queued);
  timing_.OnPrompt(static_cast<uint32_t>(plan_.prompt_ids.size()));
  for (uint32_t i = 0; i < plan_.num_choices; ++i) {
    choices_.push_back({std::make_unique<ChoiceAssembler>(tokenizer_, OptionsOfChoice(plan_, i)), false});
  }
  if (plan_.needs_worker()) return;
  Accept();
  if (!plan_.dry_run) {
    EmitPrompt();
    for (uint32_t i = 0; i < plan_.num_choices; ++i) FinishChoice(i, v1::FINISH_REASON_LENGTH, std::nullopt);
  }
  EmitSummary(nullptr);
  EndAfterPending(absl::OkStatus());
}

v1::GenerateResponse* RelayState::Push() {
  pending_.emplace_back();
  return &pending_.back();
}

// Held back until the worker reports for the first time: until then a failure leaves the client free to retry.
void RelayState::Accept() {
  if (accepted_) return;
  accepted_ = true;
  v1::Accepted* accepted = Push()->mutable_accepted();
  accepted->set_request_id(plan_.request_id);
  accepted->set_model(plan_.model);
  accepted->set_worker_id(plan_.worker_id);
  accepted->set_prompt_tokens(static_cast<uint32_t>(plan_.prompt_ids.size()));
  accepted->set_cached_prompt_tokens(cached_prompt_tokens_);
  accepted->set_queue_position(plan_.queue_position);
  *accepted->mutable_sampling() = plan_.sampling;
  *accepted->mutable_stopping() = plan_.stopping;
}

void RelayState::EmitPrompt() {
  if (prompt_emitted_ || !plan_.wants_prompt()) return;
  prompt_emitted_ = true;
  for (size_t begin = 0; begin < plan_.prompt_ids.size(); begin += kPromptTokensPerEvent) {
    const size_t end = std::min(begin + kPromptTokensPerEvent, plan_.prompt_ids.size());
    v1::GenerateResponse* event = Push();
    for (size_t i = begin; i < end; ++i) {
      const bool judged = i > 0 && i <= prompt_logprobs_.size();
      FillTokenRecord(*tokenizer_, plan_.prompt_ids[i], judged ? &prompt_logprobs_[i - 1] : nullptr,
                      event->mutable_prompt()->add_tokens());
    }
    pending_bytes_ += event->ByteSizeLong();
  }
  prompt_logprobs_.clear();
}

void RelayState::OnWorkerEvent(const worker::v1::GenerateResponse& event) {
  CHECK(begun_) << "worker event before Begin";
  if (ended_) return;
  if (event.has_scheduled()) cached_prompt_tokens_ = event.scheduled().cached_prompt_tokens();
  Accept();
  switch (event.event_case()) {
    case worker::v1::GenerateResponse::kScheduled:
      if (!plan_.output.has_prompt_logprobs()) EmitPrompt();
      break;
    case worker::v1::GenerateResponse::kTokens:
      OnTokens(event.tokens());
      break;
    case worker::v1::GenerateResponse::kPrompt:
      prompt_logprobs_.insert(prompt_logprobs_.end(), event.prompt().logprobs().begin(),
                              event.prompt().logprobs().end());
      if (prompt_logprobs_.size() + 1 >= plan_.prompt_ids.size()) EmitPrompt();
      break;
    case worker::v1::GenerateResponse::kFinished:
      OnChoiceFinished(event.finished());
      break;
    case worker::v1::GenerateResponse::kSummary:
      EmitSummary(&event.summary());
      EndAfterPending(absl::OkStatus());
      break;
    case worker::v1::GenerateResponse::kProgress: {
      const bool merge = !pending_.empty() && pending_.back().has_progress();
      v1::Progress* progress = (merge ? &pending_.back() : Push())->mutable_progress();
      progress->set_prefill_done_tokens(event.progress().prefill_done_tokens());
      progress->set_queue_position(event.progress().queue_position());
      break;
    }
    case worker::v1::GenerateResponse::EVENT_NOT_SET:
      break;
  }
  timing_.SetStalled(!ended_ && pending_bytes_ >= kMaxPendingBytes);
}

void RelayState::OnTokens(const worker::v1::Tokens& tokens) {
  if (tokens.index() >= choices_.size()) {
    return End(absl::InternalError(
        absl::StrCat("worker sent choice ", tokens.index(), " of a request for ", choices_.size())));
  }
  EmitPrompt();
  ChoiceState& choice = choices_[tokens.index()];
  if (choice.finished) return;  // a stop string ended it; the worker does not know yet
  const uint32_t before = choice.assembler->num_tokens();
  if (const absl::Status status = choice.assembler->Append(tokens); !status.ok()) return End(status);
  timing_.OnTokens(tokens.index(), choice.assembler->num_tokens() - before);
  if (choice.assembler->matched_stop().has_value()) {
    FinishChoice(tokens.index(), v1::FINISH_REASON_STOP, std::nullopt);
    if (!AllChoicesFinished()) return;
    EmitSummary(nullptr);
    EndAfterPending(absl::OkStatus());
    return;
  }
  EmitDelta(tokens.index());
}

void RelayState::OnChoiceFinished(const worker::v1::Finished& finished) {
  if (finished.index() >= choices_.size()) {
    return End(absl::InternalError(
        absl::StrCat("worker finished choice ", finished.index(), " of a request for ", choices_.size())));
  }
  EmitPrompt();
  v1::FinishReason reason = finished.reason();
  if (reason == v1::FINISH_REASON_LENGTH && plan_.context_bounds_length) reason = v1::FINISH_REASON_CONTEXT_FULL;
  FinishChoice(finished.index(), reason,
               finished.has_stop_token_id() ? std::optional<uint32_t>(finished.stop_token_id()) : std::nullopt);
  if (!AllChoicesFinished() || !AnyChoiceCut()) return;  // the worker's own summary follows
  // The worker may go on for long with a choice that a stop string ended here.
  EmitSummary(nullptr);
  EndAfterPending(absl::OkStatus());
}

void RelayState::FinishChoice(uint32_t index, v1::FinishReason reason, std::optional<uint32_t> stop_token_id) {
  ChoiceState& choice = choices_[index];
  if (choice.finished) return;
  choice.finished = true;
  choice.assembler->Finish();
  EmitDelta(index);
  v1::Finished* finished = Push()->mutable_finished();
  finished->set_index(index);
  finished->set_reason(reason);
  if (choice.assembler->matched_stop().has_value()) {
    finished->set_reason(v1::FINISH_REASON_STOP);
    finished->set_stop(*choice.assembler->matched_stop());
  } else if (stop_token_id.has_value()) {
    finished->set_stop_token_id(*stop_token_id);
  }
  finished->set_seed_used(plan_.SeedOfChoice(index));
}

void RelayState::EmitDelta(uint32_t index) {
  v1::Delta delta;
  if (!choices_[index].assembler->TakeDelta(&delta)) return;
  pending_bytes_ += delta.ByteSizeLong();
  // Deltas of different choices may overtake each other, so any unsent one of this choice takes the new text.
  for (auto it = pending_.rbegin(); it != pending_.rend(); ++it) {
    if (!it->has_delta() || it->delta().index() != index) continue;
    v1::Delta* into = it->mutable_delta();
    into->mutable_text()->append(delta.text());
    into->mutable_token_ids()->MergeFrom(delta.token_ids());
    into->mutable_tokens()->MergeFrom(delta.tokens());
    return;
  }
  *Push()->mutable_delta() = std::move(delta);
}

bool RelayState::AllChoicesFinished() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const ChoiceState& c) { return c.finished; });
}

bool RelayState::AnyChoiceCut() const {
  return std::any_of(choices_.begin(), choices_.end(),
                     [](const ChoiceState& c) { return c.assembler->matched_stop().has_value(); });
}

uint32_t RelayState::completion_tokens() const {
  uint32_t total = 0;
  for (const ChoiceState& choice : choices_) total += choice.assembler->num_tokens();
  return total;
}

v1::Usage RelayState::CurrentUsage() const {
  v1::Usage usage;
  usage.set_prompt_tokens(static_cast<uint32_t>(plan_.prompt_ids.size()));
  usage.set_cached_prompt_tokens(cached_prompt_tokens_);
  usage.set_completion_tokens(completion_tokens());
  return usage;
}

void RelayState::EmitSummary(const worker::v1::Summary* from_worker) {
  EmitPrompt();
  // A worker that reports its summary has nothing open any more; whatever it forgot to finish ended by an error.
  if (begun_ && !plan_.dry_run) {
    for (uint32_t i = 0; i < choices_.size(); ++i) FinishChoice(i, v1::FINISH_REASON_ERROR, std::nullopt);
  }
  v1::Summary* summary = Push()->mutable_summary();
  *summary->mutable_usage() = CurrentUsage();
  // Both count every sampled token; what the worker sampled past a stop string is not the client's.
  if (from_worker != nullptr && !AnyChoiceCut()) {
    summary->mutable_usage()->set_completion_tokens(
        std::max(summary->usage().completion_tokens(), from_worker->usage().completion_tokens()));
  }
  if (plan_.output.has_timing() && !plan_.output.timing()) return;
  if (from_worker != nullptr) *summary->mutable_timing() = from_worker->timing();
  timing_.Fill(from_worker != nullptr, summary->mutable_timing());
}

void RelayState::AttachPosition(absl::string_view reason, absl::Status* status) const {
  std::vector<uint32_t> positions;
  for (const ChoiceState& choice : choices_) positions.push_back(choice.assembler->num_tokens());
  AttachErrorInfo(
      reason,
      {{"position", absl::StrJoin(positions, ",")}, {"worker_id", plan_.worker_id}, {"request_id", plan_.request_id}},
      status);
}

void RelayState::OnWorkerEnd(const absl::Status& status) {
  if (ended_) return;
  if (status.ok() || absl::IsUnavailable(status)) {
    // OK without a summary is a broken stream, too.
    absl::Status lost = absl::UnavailableError(
        absl::StrCat("worker ", plan_.worker_id, " was lost", status.ok() ? "" : ": ", status.message()));
    AttachPosition("WORKER_LOST", &lost);
    AttachRetryInfo(absl::Seconds(1), &lost);
    return EndAfterPending(lost);
  }
  EndAfterPending(status);
}

void RelayState::Interrupt(absl::string_view reason, absl::string_view message) {
  if (ended_) return;
  absl::Status status = absl::UnavailableError(message);
  AttachPosition(reason, &status);
  AttachRetryInfo(absl::Seconds(1), &status);
  EndAfterPending(status);
}

void RelayState::Abort() {
  if (ended_) return;
  if (!accepted_) return End(absl::CancelledError("aborted by the operator"));
  for (uint32_t i = 0; i < choices_.size(); ++i) FinishChoice(i, v1::FINISH_REASON_CANCELLED, std::nullopt);
  EmitSummary(nullptr);
  EndAfterPending(absl::OkStatus());
}

void RelayState::EndAfterPending(const absl::Status& status) {
  if (ended_) return;
  ended_ = true;
  status_ = status;
}

void RelayState::End(const absl::Status& status) {
  // A client that is gone reads nothing, so pending events go even when the end was already decided.
  pending_.clear();
  pending_bytes_ = 0;
  timing_.SetStalled(false);
  EndAfterPending(status);
}

void RelayState::OnWriteDone(bool ok) {
  CHECK(write_in_flight_) << "no write is in flight";
  write_in_flight_ = false;
  if (!ok) End(absl::CancelledError("client is gone"));
  timing_.SetStalled(!ended_ && pending_bytes_ >= kMaxPendingBytes);
}

RelayState::Action RelayState::Next() {
  if (finished_ || write_in_flight_) return Action::kNone;
  if (!pending_.empty()) {
    message_ = std::move(pending_.front());
    pending_.pop_front();
    pending_bytes_ -= std::min(pending_bytes_, message_.ByteSizeLong());
    if (pending_.empty()) pending_bytes_ = 0;
    message_.set_sequence(next_sequence_++);
    if (message_.has_delta() && plan_.output.usage_every_chunk()) *message_.mutable_usage() = CurrentUsage();
    write_in_flight_ = true;
    return Action::kWrite;
  }
  if (!ended_) return Action::kNone;
  finished_ = true;
  return Action::kFinish;
}

}  // namespace dunlin::gateway
