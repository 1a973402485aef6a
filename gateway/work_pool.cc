#include "gateway/work_pool.h"

#include <utility>

namespace dunlin::gateway {

WorkPool::WorkPool(int num_threads, size_t capacity) : capacity_(capacity) {
  for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

WorkPool::~WorkPool() {
  {
    MutexLock lock(&mu_);
    closing_ = true;
  }
  changed_.SignalAll();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkPool::TrySubmit(std::function<void()> work) {
  {
    MutexLock lock(&mu_);
    if (closing_ || queue_.size() >= capacity_) return false;
    queue_.push_back(std::move(work));
  }
  changed_.Signal();
  return true;
}

void WorkPool::Run() {
  while (true) {
    std::function<void()> work;
    {
      MutexLock lock(&mu_);
      while (queue_.empty() && !closing_) changed_.Wait(&mu_);
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace dunlin::gateway
