// The times of one stream as its client sees them: first token, gaps between tokens, stalls.
// Thread-safety: none.  Borrows: clock and observer (must outlive this).  Cost: 4 bytes per gap, at most kMaxGaps kept.
// Source: ours.
#ifndef DUNLIN_GATEWAY_STREAM_TIMING_H_
#define DUNLIN_GATEWAY_STREAM_TIMING_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "dunlin/v1/inference.pb.h"

namespace dunlin::gateway {

// What the metrics hear of a stream. Called on whatever thread moves the stream; must not block.
class StreamObserver {
 public:
  virtual ~StreamObserver() = default;
  virtual void OnFirstToken(absl::Duration ttft) = 0;
  virtual void OnInterTokenLatency(absl::Duration gap, uint32_t count) = 0;
  virtual void OnPromptTokens(uint32_t count) = 0;
  virtual void OnGeneratedTokens(uint32_t count) = 0;
  virtual void OnClientStall(absl::Duration stall) = 0;
};

class StreamTiming {
 public:
  static constexpr size_t kMaxGaps = 16384;

  // observer may be nullptr. The stream starts now.
  StreamTiming(const Clock* clock, StreamObserver* observer);

  void SetQueued(absl::Duration queued) { queued_ = queued; }
  void OnPrompt(uint32_t num_tokens);
  // `count` tokens of choice `index` arrived together.
  void OnTokens(uint32_t index, uint32_t count);
  // The client took nothing from the first call with true to the next with false.
  void SetStalled(bool stalled);

  // Overwrites what the gateway knows better than the worker: its own queue comes on top, ttft is the client's. The
  // decode figures are filled in only where the worker did not report.
  void Fill(bool from_worker, v1::Timing* timing) const;

 private:
  const Clock* const clock_;
  StreamObserver* const observer_;
  const absl::Time start_;
  absl::Duration queued_;
  std::optional<absl::Time> first_token_;
  absl::Time last_token_;
  std::vector<std::optional<absl::Time>> last_of_choice_;
  std::vector<float> gap_seconds_;
  std::optional<absl::Time> stalled_since_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_STREAM_TIMING_H_
