// A few threads for work that is too long for a gRPC thread (tokenising, templates), behind a bounded queue.
// Thread-safety: thread-safe.  Owns: its threads.  Errors: TrySubmit returns false when the queue is full or closing.
// Work must not throw.  Source: ours.
#ifndef DUNLIN_GATEWAY_WORK_POOL_H_
#define DUNLIN_GATEWAY_WORK_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace dunlin::gateway {

class WorkPool {
 public:
  WorkPool(int num_threads, size_t capacity);
  // Runs what is queued, then joins.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  [[nodiscard]] bool TrySubmit(std::function<void()> work) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run() ABSL_LOCKS_EXCLUDED(mu_);

  const size_t capacity_;
  Mutex mu_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_WORK_POOL_H_
