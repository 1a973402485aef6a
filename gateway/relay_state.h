// The state machine of one Generate call, without gRPC: worker events and completions go in, at most one write at a
// time and exactly one finish come out. What arrives while a write is in flight is merged, and once enough waits the
// worker is not read any further, so that a slow client slows only itself. Thread-safety: none; the call that owns it
// locks it.  Borrows: tokenizer, clock, observer (must outlive this). Errors: ends with the worker's status; a lost
// worker is UNAVAILABLE with ErrorInfo{WORKER_LOST, position}. Cost: O(tokens); memory bounded by kMaxPendingBytes plus
// one worker message.  Source: ours.
#ifndef DUNLIN_GATEWAY_RELAY_STATE_H_
#define DUNLIN_GATEWAY_RELAY_STATE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "dunlin/v1/inference.pb.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "gateway/request_plan.h"
#include "gateway/stream_timing.h"
#include "gateway/text/choice_assembler.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::gateway {

class RelayState {
 public:
  static constexpr size_t kMaxPendingBytes = 64 << 10;

  enum class Action : uint8_t { kNone, kWrite, kFinish };

  RelayState(const model::Tokenizer* tokenizer, const Clock* clock, StreamObserver* observer);

  // In, once: the request is planned; `queued` is how long it waited for its turn. Without need of a worker this
  // already ends the stream. With one, worker events follow.
  void Begin(RequestPlan plan, absl::Duration queued);
  // In: from the worker. Ignored once the stream has ended.
  void OnWorkerEvent(const worker::v1::GenerateResponse& event);
  void OnWorkerEnd(const absl::Status& status);
  // In: the last write completed; !ok = the client is gone.
  void OnWriteDone(bool ok);
  // In: ends with `status` at once; what was not written yet is dropped. The first end wins.
  void End(const absl::Status& status);
  // In: an operator ends the stream in good order: finished{CANCELLED} per open choice and the summary.
  void Abort();
  // In: ends with UNAVAILABLE and the position reached, once what waits is written: for a drain whose time is up.
  void Interrupt(absl::string_view reason, absl::string_view message);

  // Out: what to do now. kWrite: send message(), then call OnWriteDone. kFinish (returned once): finish with status().
  Action Next();
  const v1::GenerateResponse& message() const { return message_; }
  const absl::Status& status() const { return status_; }

  // Out: the next worker event may be read.
  bool wants_worker_event() const { return begun_ && !ended_ && pending_bytes_ < kMaxPendingBytes; }
  bool ended() const { return ended_; }
  bool accepted() const { return accepted_; }  // the first event was emitted
  const RequestPlan& plan() const { return plan_; }
  // Sampled tokens of all choices so far.
  uint32_t completion_tokens() const;

 private:
  struct ChoiceState {
    std::unique_ptr<ChoiceAssembler> assembler;
    bool finished = false;
  };

  void Accept();
  void EmitPrompt();
  void OnTokens(const worker::v1::Tokens& tokens);
  void OnChoiceFinished(const worker::v1::Finished& finished);
  void FinishChoice(uint32_t index, v1::FinishReason reason, std::optional<uint32_t> stop_token_id);
  void EmitDelta(uint32_t index);
  void EmitSummary(const worker::v1::Summary* from_worker);
  bool AllChoicesFinished() const;
  bool AnyChoiceCut() const;  // by a stop string
  v1::GenerateResponse* Push();
  v1::Usage CurrentUsage() const;
  void AttachPosition(absl::string_view reason, absl::Status* status) const;
  void EndAfterPending(const absl::Status& status);

  const model::Tokenizer* const tokenizer_;
  StreamTiming timing_;

  RequestPlan plan_;
  bool begun_ = false;
  bool accepted_ = false;
  bool prompt_emitted_ = false;
  uint32_t cached_prompt_tokens_ = 0;
  std::vector<worker::v1::TokenLogprob> prompt_logprobs_;
  std::vector<ChoiceState> choices_;
  std::deque<v1::GenerateResponse> pending_;
  size_t pending_bytes_ = 0;
  bool write_in_flight_ = false;
  bool ended_ = false;     // nothing more comes in
  bool finished_ = false;  // kFinish was handed out
  uint64_t next_sequence_ = 0;
  v1::GenerateResponse message_;
  absl::Status status_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_RELAY_STATE_H_
