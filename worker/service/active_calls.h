// How many streams are open, so that a drain can wait for them.
// Thread-safety: thread-safe.
#ifndef DUNLIN_WORKER_SERVICE_ACTIVE_CALLS_H_
#define DUNLIN_WORKER_SERVICE_ACTIVE_CALLS_H_

#include <chrono>

#include "absl/time/time.h"
#include "base/mutex.h"

namespace dunlin::worker {

class ActiveCalls {
 public:
  void Enter() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    ++count_;
  }
  // Signals under the lock: a waiter may destroy this as soon as it sees the last call leave.
  void Leave() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    if (--count_ == 0) idle_.SignalAll();
  }
  int count() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return count_;
  }
  // False when calls are still open after `timeout`.
  bool WaitIdle(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
    MutexLock lock(&mu_);
    while (count_ > 0) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= std::chrono::nanoseconds::zero()) return false;
      idle_.WaitFor(&mu_, left);
    }
    return true;
  }

 private:
  mutable Mutex mu_;
  CondVar idle_;
  int count_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_ACTIVE_CALLS_H_
