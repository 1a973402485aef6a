// When a child that died may start again: at once the first time, then after a delay that doubles, up to a cap; a child
// that lived long enough starts afresh. Pure: the caller brings the time. Thread-safety: one thread.  Source: the usual
// capped exponential back-off.
#ifndef DUNLIN_TOOLS_RESTART_POLICY_H_
#define DUNLIN_TOOLS_RESTART_POLICY_H_

#include <algorithm>

#include "absl/time/time.h"

namespace dunlin::tools {

class RestartPolicy {
 public:
  static constexpr absl::Duration kFirstDelay = absl::Milliseconds(200);
  static constexpr absl::Duration kLongestDelay = absl::Seconds(10);
  static constexpr absl::Duration kStableAfter = absl::Seconds(60);

  void OnStart(absl::Time now) { started_ = now; }
  // How long to wait before the next start.
  absl::Duration OnExit(absl::Time now) {
    if (now - started_ >= kStableAfter) delay_ = absl::ZeroDuration();
    const absl::Duration wait = delay_;
    delay_ = std::min(kLongestDelay, std::max(kFirstDelay, delay_ * 2));
    return wait;
  }

 private:
  absl::Time started_ = absl::InfinitePast();
  absl::Duration delay_ = absl::ZeroDuration();
};

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_RESTART_POLICY_H_
