#include "kernels/cpu/thread_pool.h"

#include <algorithm>

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

// Rounds of waiting before a thread parks. The most is about 50 microseconds: longer than the gaps between the ops of a
// step, far below a scheduler's time slice. Each wait that had to park halves the next one's rounds and each that did
// not doubles them, so that threads which must share a core give it to each other at once instead of spinning on it.
constexpr int kMaxSpins = 2000;
constexpr int kMinSpins = 60;

// The bits of generation_ that count a job's threads.
constexpr uint32_t kActiveBits = 12;
constexpr uint32_t kActiveMask = (1u << kActiveBits) - 1;

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Wakes whoever waits for the word to change. notify_all skips the system call where it sees no waiter, so the change must
// be ordered before its look: a sequentially consistent read-modify-write. A plain store, even a releasing one, may become
// visible after that look, and a thread that parks in between would never be woken.
template <typename T>
void ChangeAndWake(std::atomic<T>* word, T value) {
  word->exchange(value, std::memory_order_seq_cst);
  word->notify_all();
}

// Waits until word differs from seen. *spins: the calling thread's rounds, adapted.
void SpinThenPark(const std::atomic<uint32_t>& word, uint32_t seen, int* spins) {
  for (int i = 0; i < *spins; ++i) {
    if (word.load(std::memory_order_acquire) != seen) {
      *spins = std::min(*spins * 2, kMaxSpins);
      return;
    }
    Pause();
  }
  *spins = std::max(*spins / 2, kMinSpins);
  while (word.load(std::memory_order_acquire) == seen) word.wait(seen, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), active_(num_threads), wanted_(num_threads) {
  CHECK_GE(num_threads, 1);
  CHECK_LE(num_threads, static_cast<int>(kActiveMask));
  per_thread_ = std::vector<PerThread>(static_cast<size_t>(num_threads));
  for (PerThread& t : per_thread_) t.spins = kMaxSpins;
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int t = 1; t < num_threads; ++t) workers_.emplace_back([this, t] { WorkerLoop(t); });
}

ThreadPool::~ThreadPool() {
  SetActive(num_threads_);
  Publish(0);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunErased(JobFn fn, void* arg) {
  job_ = fn;
  job_arg_ = arg;
  job_parity_ ^= 1;
  for (Counter& counter : counters_) counter.value.store(0, std::memory_order_relaxed);
  if (active_ > 1) Publish(active_);
  EnterJob(0);
  Context context(this, 0);
  fn(arg, context);
  BarrierWait(0);
}

void ThreadPool::Publish(int threads) {
  const uint32_t next = (generation_.load(std::memory_order_relaxed) & ~kActiveMask) + (1u << kActiveBits);
  ChangeAndWake(&generation_, next | static_cast<uint32_t>(threads));
}

void ThreadPool::SetActive(int threads) {
  if (threads == active_) return;
  CHECK(threads >= 1 && threads <= num_threads_) << threads;
  // A thread that slept has not cleared its part for the next job.
  for (PerThread& t : per_thread_) {
    for (auto& set : t.taken) {
      for (std::atomic<int64_t>& taken : set) taken.store(0, std::memory_order_relaxed);
    }
  }
  active_ = threads;
  ChangeAndWake(&wanted_, threads);
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    SpinThenPark(generation_, seen, &per_thread_[static_cast<size_t>(thread)].spins);
    // A job that this thread takes part in ends with it alone, so of those none is ever skipped.
    seen = generation_.load(std::memory_order_acquire);
    const int threads = static_cast<int>(seen & kActiveMask);
    if (threads == 0) return;
    if (thread >= threads) {
      for (int wanted; (wanted = wanted_.load(std::memory_order_acquire)) <= thread;) {
        wanted_.wait(wanted, std::memory_order_acquire);
      }
      continue;
    }
    EnterJob(thread);
    Context context(this, thread);
    job_(job_arg_, context);
    BarrierWait(thread);
  }
}

void ThreadPool::EnterJob(int thread) {
  // The set of the last job, which every thread has left; the next one starts after the barrier that ends this.
  for (std::atomic<int64_t>& taken : per_thread_[static_cast<size_t>(thread)].taken[job_parity_ ^ 1]) {
    taken.store(0, std::memory_order_relaxed);
  }
}

void ThreadPool::BarrierWait(int thread) {
  const int threads = active_;  // read before the arrival: once all have arrived, it may change
  if (threads == 1) return;
  const uint32_t seen = barrier_generation_.load(std::memory_order_relaxed);
  if (barrier_arrived_.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
    barrier_arrived_.store(0, std::memory_order_relaxed);
    ChangeAndWake(&barrier_generation_, seen + 1);  // nobody else changes it before this
  } else {
    SpinThenPark(barrier_generation_, seen, &per_thread_[static_cast<size_t>(thread)].spins);
  }
}

}  // namespace dunlin::kernels::cpu
