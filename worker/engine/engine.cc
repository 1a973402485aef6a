#include "worker/engine/engine.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bounded_queue.h"
#include "base/mutex.h"
#include "worker/engine/engine_core.h"

namespace dunlin::worker {
namespace {

// Wake-ups that nothing caused; keeps the arithmetic of infinite times out of the queue.
constexpr absl::Duration kLongestWait = absl::Hours(1);

struct Arrival {
  NewSequence sequence;
  absl::Time at;
};

}  // namespace

class Engine::Impl {
 public:
  Impl(const EngineOptions& options, const Clock* clock, EngineObserver* observer, std::unique_ptr<EngineCore> core)
      : capacity_(options.inbox_capacity),
        clock_(clock),
        observer_(observer),
        core_(std::move(core)),
        inbox_(static_cast<size_t>(options.inbox_capacity)),
        snapshot_(core_->stats()) {
    core_->SetInterrupt([this] { return attention_.load(std::memory_order_acquire); });
    thread_ = std::thread([this] { Run(); });
  }

  ~Impl() {
    stopping_.store(true, std::memory_order_release);
    attention_.store(true, std::memory_order_release);
    inbox_.Close();
    thread_.join();
  }

  absl::Status Submit(NewSequence sequence) {
    if (absl::Status status = core_->Check(sequence); !status.ok()) return status;
    if (!admitting_.load(std::memory_order_acquire)) {
      return absl::UnavailableError("the worker takes no new sequences");
    }
    if (lost_device_.load(std::memory_order_acquire)) {
      return absl::UnavailableError("the worker has lost its device");
    }
    // Counts the inbox and the engine's own queue together, so that draining one into the other lifts no limit.
    if (queued_.fetch_add(1, std::memory_order_relaxed) >= capacity_) {
      queued_.fetch_sub(1, std::memory_order_relaxed);
      return absl::ResourceExhaustedError(absl::StrCat("the worker's queue is full: ", capacity_, " sequences wait"));
    }
    if (!inbox_.TryPush({std::move(sequence), clock_->Now()})) {
      queued_.fetch_sub(1, std::memory_order_relaxed);
      return absl::UnavailableError("the worker is shutting down");
    }
    attention_.store(true, std::memory_order_release);
    return absl::OkStatus();
  }

  void Wake() {
    attention_.store(true, std::memory_order_release);
    inbox_.Wake();
  }
  void StopAdmission() { admitting_.store(false, std::memory_order_release); }

  int32_t FlushCache() {
    MutexLock lock(&mu_);
    const uint64_t mine = ++flushes_asked_;
    Wake();
    while (flushes_done_ < mine && !exited_) flushed_.Wait(&mu_);
    return flushes_done_ >= mine ? flushed_pages_ : 0;
  }

  EngineStats Snapshot() const {
    MutexLock lock(&mu_);
    EngineStats stats = snapshot_;
    // Those that never ran are counted here, inbox and queue together; the preempted ones by the core.
    stats.waiting = queued_.load(std::memory_order_relaxed) + stats.waiting_preempted;
    return stats;
  }

 private:
  void Run() {
    while (!stopping_.load(std::memory_order_acquire)) {
      attention_.exchange(false, std::memory_order_acq_rel);  // before looking: what comes later sets it again
      TakeArrivals();
      const bool has_work = core_->Prepare();
      Publish(/*may_flush=*/!has_work);  // the batch of a step points to page tables
      core_->DeliverEnds();
      if (has_work) {
        core_->Execute();
        Publish(/*may_flush=*/true);
        core_->DeliverEnds();
        continue;
      }
      const absl::Duration wait = std::min(core_->NextWake() - clock_->Now(), kLongestWait);
      inbox_.WaitFor(absl::ToChronoNanoseconds(std::max(wait, absl::ZeroDuration())));
    }
    TakeArrivals();  // the inbox is closed: nothing follows
    core_->FailAll(absl::UnavailableError("the worker is shutting down"));
    Publish(/*may_flush=*/true);
    core_->DeliverEnds();
    MutexLock lock(&mu_);
    exited_ = true;
    flushed_.SignalAll();
  }

  void TakeArrivals() {
    inbox_.DrainInto(&arrivals_);
    for (Arrival& a : arrivals_) core_->Add(std::move(a.sequence), a.at);
    arrivals_.clear();
  }

  // Before and after each step: serves flushes and lets Snapshot see the state.
  void Publish(bool may_flush) {
    const bool lost_now = core_->lost_device() && !lost_device_.exchange(true, std::memory_order_acq_rel);
    PublishState(may_flush);
    if (lost_now && observer_ != nullptr) observer_->OnDeviceLost();
  }

  void PublishState(bool may_flush) ABSL_LOCKS_EXCLUDED(mu_) {
    const uint64_t left = core_->num_left_queue();
    MutexLock lock(&mu_);
    queued_.fetch_sub(static_cast<int>(left - left_queue_), std::memory_order_relaxed);
    left_queue_ = left;
    if (may_flush && flushes_done_ < flushes_asked_) {
      flushed_pages_ = core_->Flush();
      flushes_done_ = flushes_asked_;
      flushed_.SignalAll();
    }
    snapshot_ = core_->stats();
  }

  const int capacity_;
  const Clock* const clock_;
  EngineObserver* const observer_;          // may be nullptr
  const std::unique_ptr<EngineCore> core_;  // engine thread only, except Check
  BoundedQueue<Arrival> inbox_;
  std::atomic<int> queued_{0};
  std::atomic<bool> admitting_{true};
  std::atomic<bool> lost_device_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> attention_{false};  // something waits for the thread: a run of decode steps ends

  // Engine thread only.
  std::vector<Arrival> arrivals_;
  uint64_t left_queue_ = 0;

  mutable Mutex mu_;
  CondVar flushed_;
  EngineStats snapshot_ ABSL_GUARDED_BY(mu_);
  uint64_t flushes_asked_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t flushes_done_ ABSL_GUARDED_BY(mu_) = 0;
  int32_t flushed_pages_ ABSL_GUARDED_BY(mu_) = 0;  // of the last flush
  bool exited_ ABSL_GUARDED_BY(mu_) = false;

  std::thread thread_;  // last: it uses everything above
};

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, ModelRunner* runner,
                                                       const Clock* clock, EngineObserver* observer) {
  absl::StatusOr<std::unique_ptr<EngineCore>> core = EngineCore::Create(options, runner, clock, observer);
  if (!core.ok()) return core.status();
  return std::unique_ptr<Engine>(new Engine(std::make_unique<Impl>(options, clock, observer, *std::move(core))));
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::~Engine() = default;
absl::Status Engine::Submit(NewSequence sequence) { return impl_->Submit(std::move(sequence)); }
void Engine::Wake() { impl_->Wake(); }
int32_t Engine::FlushCache() { return impl_->FlushCache(); }
EngineStats Engine::Snapshot() const { return impl_->Snapshot(); }
void Engine::StopAdmission() { impl_->StopAdmission(); }

}  // namespace dunlin::worker
