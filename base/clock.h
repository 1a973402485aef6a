// Time as a dependency: the real clock, and a fake one that moves only when a test says so.
// Thread-safety: thread-safe.
#ifndef DUNLIN_BASE_CLOCK_H_
#define DUNLIN_BASE_CLOCK_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace dunlin {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic: never goes back within a process. Only differences and comparisons mean anything.
  virtual absl::Time Now() const = 0;

  // The process-wide real clock (never destroyed).
  static const Clock* Real();
};

class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time start = absl::UnixEpoch() + absl::Hours(1)) : now_(start) {}
  absl::Time Now() const override {
    MutexLock lock(&mu_);
    return now_;
  }
  void Advance(absl::Duration d) {
    MutexLock lock(&mu_);
    now_ += d;
  }

 private:
  mutable Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin

#endif  // DUNLIN_BASE_CLOCK_H_
