// The mailbox of one generation: the engine thread puts tokens in, a gRPC reactor takes them out. Knows no gRPC.
// Thread-safety: thread-safe; one producer (engine thread), one consumer.
// Bounded: the engine never produces more than the request's max_tokens; unread_bytes() lets the engine pause a
// sequence whose reader is slow. The notification runs on the producer's thread, outside the lock, and must not block.
#ifndef DUNLIN_WORKER_SERVICE_TOKEN_STREAM_H_
#define DUNLIN_WORKER_SERVICE_TOKEN_STREAM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace dunlin::worker {

struct TokenLogprob {
  float logprob = 0.0f;
  int32_t rank = 0;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

enum class FinishCause : uint8_t { kStopToken, kEos, kLength, kContextFull, kMaxTime, kCancelled, kError };

struct SequenceTiming {
  absl::Duration queue, prefill, ttft, decode, itl_p50, itl_p99, itl_max;
  uint32_t preemptions = 0;
  uint32_t kv_pages_peak = 0;
  uint32_t draft_tokens = 0, accepted_draft_tokens = 0;
  uint64_t bytes_read = 0;
};

struct SequenceEnd {
  FinishCause cause = FinishCause::kError;
  int32_t stop_token = -1;  // with kStopToken
  // Not OK when the sequence ended by an error: DEADLINE_EXCEEDED (gRPC deadline), UNAVAILABLE (device lost, shutting
  // down), RESOURCE_EXHAUSTED (reader stalled past the limit), CANCELLED.
  absl::Status status;
  uint32_t prompt_tokens = 0;
  uint32_t cached_prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  SequenceTiming timing;
};

// Everything that happened since the last Take.
struct StreamUpdate {
  bool scheduled = false;             // left the queue (reported once)
  uint32_t cached_prompt_tokens = 0;  // valid once scheduled
  uint32_t prefill_done_tokens = 0;   // latest
  std::vector<TokenLogprob> prompt_logprobs;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;  // parallel to tokens when asked, else empty
  std::optional<SequenceEnd> end;      // last thing ever reported
  bool empty() const {
    return !scheduled && prompt_logprobs.empty() && tokens.empty() && !end && prefill_done_tokens == 0;
  }
};

class TokenStream {
 public:
  // Called after something was added while the mailbox had been empty since the last Take. Set before submitting. One
  // call may still be under way when the consumer already took the end: what it captures must outlive that.
  void SetNotify(std::function<void()> notify);

  // Producer side (engine thread).
  void PushScheduled(uint32_t cached_prompt_tokens);
  void PushProgress(uint32_t prefill_done_tokens);
  void PushPromptLogprob(TokenLogprob logprob);
  void PushToken(int32_t token, const TokenLogprob* logprob);  // logprob may be nullptr
  void PushEnd(SequenceEnd end);                               // exactly once, last
  // Estimated bytes waiting to be read; 0 after a Take.
  size_t unread_bytes() const { return unread_bytes_.load(std::memory_order_relaxed); }

  // Consumer side. Replaces *update by everything pending; false when there was nothing. A consumer that passes the
  // same object again lends its vectors' memory to the producer: then neither side allocates in the long run.
  bool Take(StreamUpdate* update);

  // Consumer asks for the end; the engine honours it at its next step. Idempotent. `at`: now by the engine's clock, for
  // the metric of how long the pages stayed taken.
  void Cancel(absl::Time at = absl::InfiniteFuture()) {
    if (at != absl::InfiniteFuture()) cancel_nanos_.store(absl::ToUnixNanos(at), std::memory_order_relaxed);
    cancelled_.store(true, std::memory_order_release);
  }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  // When, if Cancel was told; else InfiniteFuture. Valid once cancelled().
  absl::Time cancel_time() const {
    const int64_t nanos = cancel_nanos_.load(std::memory_order_relaxed);
    return nanos == kNoTime ? absl::InfiniteFuture() : absl::FromUnixNanos(nanos);
  }

 private:
  static constexpr int64_t kNoTime = -1;

  // Applies `change` to what is pending, counts its bytes, and notifies when the consumer has not been told yet.
  template <typename Change>
  void Add(size_t bytes, const Change& change) ABSL_LOCKS_EXCLUDED(mu_);

  std::function<void()> notify_;  // constant after SetNotify
  std::atomic<bool> cancelled_{false};
  std::atomic<int64_t> cancel_nanos_{kNoTime};
  std::atomic<size_t> unread_bytes_{0};
  Mutex mu_;
  StreamUpdate pending_ ABSL_GUARDED_BY(mu_);
  bool notified_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_TOKEN_STREAM_H_
