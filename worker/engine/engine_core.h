// The engine without its thread: a plain class that a test drives step by step. Engine wraps it.
// Thread-safety: one thread, except Check.  Owns: the sequences, the KV store, the scheduler, the batch.  Borrows: the
// runner, the clock, the observer (may be nullptr).
// The order within a step, and what holds between steps, is in CONTRACT.md. Cost: O(open sequences) per step; a step
// that only decodes, without logprobs, does not allocate.
#ifndef DUNLIN_WORKER_ENGINE_ENGINE_CORE_H_
#define DUNLIN_WORKER_ENGINE_ENGINE_CORE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kvstore/kv_store.h"
#include "worker/engine/engine.h"
#include "worker/engine/sequence.h"
#include "worker/model_runner.h"
#include "worker/scheduler/scheduler.h"
#include "worker/scheduler/step_batch.h"

namespace dunlin::worker {

class EngineCore {
 public:
  // kInvalidArgument when the options contradict each other or the runner.
  static absl::StatusOr<std::unique_ptr<EngineCore>> Create(const EngineOptions& options, ModelRunner* runner,
                                                            const Clock* clock, EngineObserver* observer);
  ~EngineCore();

  // Whether the sequence can be served at all; as Engine::Submit. Thread-safe.
  absl::Status Check(const NewSequence& sequence) const;
  // Queues a checked sequence. arrival: when it was submitted.
  void Add(NewSequence sequence, absl::Time arrival);
  // One step in two parts. Prepare ends what has to end, admits and builds the batch; false when it is empty. Execute
  // runs the batch and hands out its tokens.
  bool Prepare();
  void Execute();
  bool Step() {
    if (!Prepare()) return false;
    Execute();
    return true;
  }
  // After a Step that returned false: when to step again at the latest if nothing else happens.
  absl::Time NextWake() const;
  // Tells the streams of the sequences that ended since the last call. Apart from Step so that whoever sees an end can
  // rely on stats() published before it.
  void DeliverEnds();
  // Ends every open sequence with `status`.
  void FailAll(const absl::Status& status);
  int32_t Flush() { return kv_->Flush(); }

  EngineStats stats() const;
  // Sequences that left the queue so far, by admission or by ending.
  uint64_t num_left_queue() const { return num_left_queue_; }
  bool lost_device() const { return stats_.lost_device; }
  bool idle() const { return waiting_.empty() && running_.empty(); }
  // "" or the first violated invariant with its values.
  std::string CheckInvariants() const;

 private:
  struct Verdict {
    FinishCause cause;
    absl::Status status;
  };
  // A sequence's part of the step under way.
  struct Planned {
    Sequence* sequence;
    int32_t num_rows;
    int32_t num_judged;  // outputs that judge prompt tokens; they come before the drawn one
    bool draws;
  };
  struct Ended {
    std::shared_ptr<TokenStream> stream;
    SequenceEnd end;
  };

  EngineCore(const EngineOptions& options, int max_model_len, ModelRunner* runner, const Clock* clock,
             EngineObserver* observer);

  // Parts of Prepare and Execute, in order.
  void Reap(absl::Time now);
  void Admit(absl::Time now);
  void Open(Sequence* sequence, absl::Time now);
  bool BuildBatch();
  void AddToBatch(Sequence* sequence, int32_t num_rows);
  void Absorb(absl::Time now);
  void AbsorbSequence(const Planned& planned, size_t first_output, absl::Time now);
  void AppendToken(Sequence* sequence, const kernels::SampleResult& output, absl::Time now);
  void DropFinished();

  // Why the sequence must end now, whatever it is doing.
  std::optional<Verdict> Judge(Sequence* sequence, absl::Time now) const;
  // Frees everything the sequence holds and queues its end; the caller drops it.
  void End(Sequence* sequence, Verdict verdict, int32_t stop_token = -1);
  bool EndsGeneration(const Sequence& sequence, int32_t token) const;
  int32_t FreePages() const;
  void CountDecoded(int num_tokens, absl::Time now);

  const EngineOptions options_;
  const int max_model_len_;
  ModelRunner* const runner_;
  const Clock* const clock_;
  EngineObserver* const observer_;
  const std::unique_ptr<kv::KvStore> kv_;
  const Scheduler scheduler_;
  StepBatchBuilder builder_;

  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // nullptr only within Absorb
  std::vector<Ended> ended_;
  uint64_t num_left_queue_ = 0;
  EngineStats stats_;
  absl::Time rate_start_ = absl::InfinitePast();
  int rate_tokens_ = 0;

  // Scratch, kept from step to step.
  std::vector<WaitingSequence> waiting_view_;
  std::vector<RunningSequence> running_view_;
  std::vector<int32_t> admitted_;
  std::vector<int32_t> rows_;
  std::vector<Planned> planned_;
  StepResult result_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_ENGINE_CORE_H_
