// Decides when a streaming reactor builds its next message, writes it and finishes: one write in flight, Finish exactly
// once and never beside a write. Knows no gRPC: the caller performs what it is told.
// Thread-safety: thread-safe. Between a call that says "build" and Built(), the caller alone may build; after Built()
// said kWrite or kFinish and the caller started that operation, it must not touch the reactor again (it may be gone).
// Cost: one uncontended lock per call.
#ifndef DUNLIN_WORKER_SERVICE_WRITE_PUMP_H_
#define DUNLIN_WORKER_SERVICE_WRITE_PUMP_H_

#include "base/check.h"
#include "base/mutex.h"

namespace dunlin::worker {

class WritePump {
 public:
  enum class Found { kMessage, kNothing, kEnd };
  enum class Next { kWrite, kFinish, kWait, kBuildAgain };

  // There may be something to write. True: build, then call Built.
  [[nodiscard]] bool OnNews() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    if (state_ == State::kIdle) {
      state_ = State::kBuilding;
      return true;
    }
    // Looked at once the builder is done; a write's end always builds again.
    if (state_ == State::kBuilding) news_ = true;
    return false;
  }

  // The write ended, well or not: build, then call Built.
  void OnWriteDone() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    CHECK(state_ == State::kWriting) << "a write ended that was not begun";
    state_ = State::kBuilding;
  }

  [[nodiscard]] Next Built(Found found) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    CHECK(state_ == State::kBuilding) << "built by somebody who was not asked to";
    const bool again = news_;
    news_ = false;
    switch (found) {
      case Found::kMessage:
        state_ = State::kWriting;
        return Next::kWrite;
      case Found::kEnd:
        state_ = State::kFinished;
        return Next::kFinish;
      case Found::kNothing:
        break;
    }
    if (again) return Next::kBuildAgain;
    state_ = State::kIdle;
    return Next::kWait;
  }

 private:
  enum class State { kIdle, kBuilding, kWriting, kFinished };
  Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kIdle;
  bool news_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_WRITE_PUMP_H_
