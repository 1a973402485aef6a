// The choices of one request as one stream of events: scheduled, prompt, progress, tokens, finished per choice, summary
// last. What arrived in a mailbox since the last look becomes one message per choice. Knows the messages, no gRPC.
// Thread-safety: one caller at a time (the WritePump's builder); the mailboxes are thread-safe themselves.
// Owns: a share of the mailboxes. Bounded: looks into the mailboxes only when all it took before was handed out.
#ifndef DUNLIN_WORKER_SERVICE_CHOICE_MERGER_H_
#define DUNLIN_WORKER_SERVICE_CHOICE_MERGER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "worker/service/token_stream.h"

namespace dunlin::worker {

class ChoiceMerger {
 public:
  // streams: one per choice, in order of index. num_prompt_logprobs: how many records choice 0 brings before anything
  // else may be sent (0 = none asked).
  ChoiceMerger(std::vector<std::shared_ptr<TokenStream>> streams, size_t num_prompt_logprobs);

  // The choices from `index` on never began; `status` (not OK) is what the request ends with. Before the first Next.
  void NeverBegan(size_t index, const absl::Status& status);
  // From now on nothing is handed out: the client is gone; only the ends are awaited.
  void Discard() { discard_ = true; }

  // False when there is nothing to send now.
  bool Next(v1::GenerateResponse* message);
  // Every choice ended and everything was handed out. Only after Next said false.
  bool ended() const { return pending_.empty() && open_ == 0 && (summarised_ || discard_ || !status_.ok()); }
  // What the RPC ends with. Only when ended.
  const absl::Status& status() const { return status_; }
  // An error of one choice is the request's: the caller cancels the others.
  bool failed() const { return !status_.ok(); }

 private:
  void Sweep();
  void TakeUpdate(size_t index, StreamUpdate* update);
  void End(size_t index, const SequenceEnd& end);
  void Summarise();

  std::vector<std::shared_ptr<TokenStream>> streams_;
  std::vector<std::optional<SequenceEnd>> ends_;  // [num_choices]
  size_t open_;                                   // choices without an end
  size_t prompt_logprobs_left_;
  std::deque<v1::GenerateResponse> pending_;
  StreamUpdate scratch_;
  bool scheduled_ = false;
  bool summarised_ = false;
  bool discard_ = false;
  uint32_t progress_tokens_ = 0;
  absl::Status status_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_CHOICE_MERGER_H_
