// One thread that runs what may block, so that gRPC's few reactor threads never do.
// Thread-safety: thread-safe. The destructor runs what is still queued, then joins.
// Bounded: Post says false when `capacity` tasks wait.
#ifndef DUNLIN_WORKER_SERVICE_TASK_THREAD_H_
#define DUNLIN_WORKER_SERVICE_TASK_THREAD_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"

namespace dunlin::worker {

class TaskThread {
 public:
  explicit TaskThread(size_t capacity) : queue_(capacity), thread_([this] { Run(); }) {}
  ~TaskThread() {
    stopping_.store(true);
    queue_.Close();
    thread_.join();
  }
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  [[nodiscard]] bool Post(std::function<void()> task) { return queue_.TryPush(std::move(task)); }

 private:
  void Run() {
    std::vector<std::function<void()>> tasks;
    bool last = false;
    while (!last) {
      queue_.WaitFor(std::chrono::hours(1));
      // Read before draining: what was posted before the close is still run.
      last = stopping_.load();
      queue_.DrainInto(&tasks);
      for (const std::function<void()>& task : tasks) task();
    }
  }

  BoundedQueue<std::function<void()>> queue_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses the rest
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_TASK_THREAD_H_
