// Tokens per second over windows of about a second. Thread-safety: engine thread only.  Cost: O(1).  Source: ours.
#ifndef DUNLIN_WORKER_ENGINE_DECODE_RATE_H_
#define DUNLIN_WORKER_ENGINE_DECODE_RATE_H_

#include "absl/time/time.h"

namespace dunlin::worker {

class DecodeRate {
 public:
  // A step ended at `now` with so many new tokens. The first one only starts the window.
  void Add(int tokens, absl::Time now) {
    if (window_start_ == absl::InfinitePast()) {
      window_start_ = now;
      tokens_ = 0;
      return;
    }
    tokens_ += tokens;
    const absl::Duration elapsed = now - window_start_;
    if (elapsed < absl::Seconds(1)) return;
    tokens_per_second_ = tokens_ / absl::ToDoubleSeconds(elapsed);
    window_start_ = now;
    tokens_ = 0;
  }
  // Nothing runs.
  void Stop() {
    window_start_ = absl::InfinitePast();
    tokens_per_second_ = 0;
  }
  double tokens_per_second() const { return tokens_per_second_; }

 private:
  absl::Time window_start_ = absl::InfinitePast();
  int tokens_ = 0;
  double tokens_per_second_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_DECODE_RATE_H_
