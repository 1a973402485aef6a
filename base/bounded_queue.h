// A bounded multi-producer queue with a batch consumer: refuses when full instead of growing.
// Thread-safety: thread-safe.  Errors: TryPush returns false when full or closed.
// Cost: one lock per call; storage for `capacity` elements is reserved once.
#ifndef DUNLIN_BASE_BOUNDED_QUEUE_H_
#define DUNLIN_BASE_BOUNDED_QUEUE_H_

#include <chrono>
#include <cstddef>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace dunlin {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) { items_.reserve(capacity); }

  // Moves from `item` only on success.
  [[nodiscard]] bool TryPush(T&& item) ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(&mu_);
      if (closed_ || items_.size() >= capacity_) return false;
      items_.push_back(std::move(item));
    }
    ready_.Signal();
    return true;
  }

  // Replaces the content of `out` by everything queued, in order; never blocks.
  void DrainInto(std::vector<T>* out) ABSL_LOCKS_EXCLUDED(mu_) {
    out->clear();
    MutexLock lock(&mu_);
    out->swap(items_);
    if (items_.capacity() < capacity_) items_.reserve(capacity_);
  }

  // Blocks until something is queued, Wake() or Close() is called, or the timeout passes.
  void WaitFor(std::chrono::nanoseconds timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    while (items_.empty() && !closed_ && !woken_) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= std::chrono::nanoseconds::zero() || !ready_.WaitFor(&mu_, left)) break;
    }
    woken_ = false;
  }

  // Ends one present or future WaitFor without queuing anything.
  void Wake() ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(&mu_);
      woken_ = true;
    }
    ready_.Signal();
  }

  // Every later TryPush fails; what is queued can still be drained.
  void Close() ABSL_LOCKS_EXCLUDED(mu_) {
    {
      MutexLock lock(&mu_);
      closed_ = true;
    }
    ready_.SignalAll();
  }

  size_t size() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return items_.size();
  }

 private:
  const size_t capacity_;
  mutable Mutex mu_;
  CondVar ready_;
  std::vector<T> items_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool woken_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace dunlin

#endif  // DUNLIN_BASE_BOUNDED_QUEUE_H_
