// The CPU backend's threads: a fixed set that runs one job at a time. A job is a function that every thread enters
// together; inside, phases are separated by barriers and share their items through counters, so a fused op costs a few
// barriers and no dispatch per phase. Waiting is a bounded spin and then a futex: an idle pool uses no CPU.
// Thread-safety: Run from one thread at a time; the caller is thread 0.  Owns its threads; the destructor joins them.
// Errors: CHECK on a thread count below 1.  Cost: a barrier among spinning threads is well below a microsecond; nothing
// allocates after construction.
// Source: ours.
#ifndef DUNLIN_KERNELS_CPU_THREAD_POOL_H_
#define DUNLIN_KERNELS_CPU_THREAD_POOL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace dunlin::kernels::cpu {

class ThreadPool {
 public:
  // Phases of one job that may share items through Next.
  static constexpr int kMaxPhases = 16;

  // What a job sees. Valid during the job only.
  class Context {
   public:
    int thread() const { return thread_; }
    // That run this job.
    int num_threads() const { return pool_->active_; }
    // Returns when every thread of the pool has arrived. What was written before it is seen after it.
    void Barrier() { pool_->BarrierWait(thread_); }
    // Hands out 0, 1, 2, … once each over all threads, apart for each phase of the job; ascending within a thread.
    int64_t Next(int phase) {
      return pool_->counters_[static_cast<size_t>(phase)].value.fetch_add(1, std::memory_order_relaxed);
    }
    // The first of this thread's own items of n, as ForShare deals them; the next thread's first ends them.
    int64_t ShareBegin(int64_t n) const { return n * thread_ / pool_->active_; }
    // Calls fn(begin, end) for pieces of at most `chunk` of the items [0, n): this thread's own contiguous share in
    // order, as the prefetchers like it, then what other threads have left of theirs. Each item once over all threads.
    template <typename Fn>
    void ForShare(int phase, int64_t n, int64_t chunk, Fn&& fn) {
      const int threads = pool_->active_;
      for (int i = 0; i < threads; ++i) {
        const int owner = thread_ + i < threads ? thread_ + i : thread_ + i - threads;
        const int64_t first = n * owner / threads;
        const int64_t last = n * (owner + 1) / threads;
        std::atomic<int64_t>& taken = pool_->Taken(owner, phase);
        while (true) {
          const int64_t begin = first + taken.fetch_add(chunk, std::memory_order_relaxed);
          if (begin >= last) break;
          fn(begin, begin + chunk < last ? begin + chunk : last);
        }
      }
    }

   private:
    friend class ThreadPool;
    Context(ThreadPool* pool, int thread) : pool_(pool), thread_(thread) {}
    ThreadPool* pool_;
    int thread_;
  };

  // num_threads counts the caller's.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // How many threads (1…num_threads()) run the jobs from now on; the others sleep. Cheap where it changes nothing.
  void SetActive(int threads);

  // Runs fn(Context&) on every thread and returns when all are done. Every thread must pass the same barriers.
  template <typename Fn>
  void Run(Fn&& fn) {
    using F = std::remove_reference_t<Fn>;
    RunErased([](void* f, Context& context) { (*static_cast<F*>(f))(context); },
              const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using JobFn = void (*)(void*, Context&);
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };

  // What one thread has: its rounds of waiting before it parks, and of each phase how much of its share is taken, in
  // two sets: while a job uses one, every thread clears its own part of the other for the next.
  struct alignas(64) PerThread {
    int spins;
    std::array<std::array<std::atomic<int64_t>, kMaxPhases>, 2> taken{};
  };

  void RunErased(JobFn fn, void* arg);
  void Publish(int threads);
  void WorkerLoop(int thread);
  void BarrierWait(int thread);
  void EnterJob(int thread);
  std::atomic<int64_t>& Taken(int owner, int phase) {
    return per_thread_[static_cast<size_t>(owner)].taken[job_parity_][static_cast<size_t>(phase)];
  }

  const int num_threads_;
  int active_;           // as job_
  JobFn job_ = nullptr;  // written before, read after, the change of generation_
  void* job_arg_ = nullptr;
  size_t job_parity_ = 0;
  std::array<Counter, kMaxPhases> counters_;
  // Another value = a new job. The low bits say how many threads run it, so that the others need not look at more;
  // none = the end.
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> wanted_;  // active_, for the threads that sleep meanwhile
  alignas(64) std::atomic<uint32_t> barrier_generation_{0};
  alignas(64) std::atomic<int> barrier_arrived_{0};
  std::vector<PerThread> per_thread_;
  std::vector<std::thread> workers_;
};

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_THREAD_POOL_H_
