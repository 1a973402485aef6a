#include "kernels/cpu/thread_pool.h"

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

// About 50 microseconds of pauses: longer than the gaps between the ops of a step, far below a scheduler's time slice.
constexpr int kSpins = 2000;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until *word differs from seen.
void SpinThenPark(const std::atomic<uint32_t>& word, uint32_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != seen) return;
    Pause();
  }
  while (word.load(std::memory_order_acquire) == seen) word.wait(seen, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  CHECK_GE(num_threads, 1);
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int t = 1; t < num_threads; ++t) workers_.emplace_back([this, t] { WorkerLoop(t); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunErased(JobFn fn, void* arg) {
  job_ = fn;
  job_arg_ = arg;
  for (Counter& counter : counters_) counter.value.store(0, std::memory_order_relaxed);
  if (num_threads_ > 1) {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }
  Context context(this, 0);
  fn(arg, context);
  BarrierWait();
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    SpinThenPark(generation_, seen);
    ++seen;  // a new job starts only after every thread has left the last one, so none is ever skipped
    if (stop_) return;
    Context context(this, thread);
    job_(job_arg_, context);
    BarrierWait();
  }
}

void ThreadPool::BarrierWait() {
  if (num_threads_ == 1) return;
  const uint32_t seen = barrier_generation_.load(std::memory_order_relaxed);
  if (barrier_arrived_.fetch_add(1, std::memory_order_acq_rel) == num_threads_ - 1) {
    barrier_arrived_.store(0, std::memory_order_relaxed);
    barrier_generation_.fetch_add(1, std::memory_order_release);
    barrier_generation_.notify_all();
  } else {
    SpinThenPark(barrier_generation_, seen);
  }
}

}  // namespace dunlin::kernels::cpu
