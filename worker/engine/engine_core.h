// The engine without its thread: a plain class that a test drives step by step. Engine wraps it.
// Thread-safety: one thread, except Check.  Owns: the sequences, their pages' bookkeeping, the scheduler's classes, the
// batch.  Borrows: the runner, the clock, the observer (may be nullptr).
// The order within a step, and what holds between steps, is in CONTRACT.md; its parts are in engine_core_*.cc.
// Cost: O(running) per step, plus one look at each waiting sequence's flags; a step that only decodes, without
// logprobs, does not allocate.
#ifndef DUNLIN_WORKER_ENGINE_ENGINE_CORE_H_
#define DUNLIN_WORKER_ENGINE_ENGINE_CORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "worker/engine/decode_rate.h"
#include "worker/engine/drafter.h"
#include "worker/engine/engine.h"
#include "worker/engine/sequence.h"
#include "worker/engine/sequence_pages.h"
#include "worker/engine/steps_in_flight.h"
#include "worker/engine/verdict.h"
#include "worker/engine/victims.h"
#include "worker/engine/waiting_sequences.h"
#include "worker/model_runner.h"
#include "worker/scheduler/output_predictor.h"
#include "worker/scheduler/row_planner.h"
#include "worker/scheduler/step_batch.h"
#include "worker/scheduler/step_time_model.h"
#include "worker/scheduler/tenant_counters.h"

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
  // A step in two parts. Prepare ends what has to end, admits, plans and builds the batch; false when it is empty.
  // Execute runs the batch and hands out its tokens, and may go on decoding with the same plan. With a runner that can
  // run ahead Execute submits the batch and hands out the tokens of the step before it; then Prepare is true while a
  // step is in flight, too, and plans on what is known by then.
  bool Prepare();
  void Execute();
  bool Step() {
    if (!Prepare()) return false;
    Execute();
    return true;
  }
  // Asked between the steps of one plan: whether Execute should return now, because somebody waits for it.
  void SetInterrupt(std::function<bool()> interrupt) { interrupt_ = std::move(interrupt); }
  // After a Step that returned false: when to step again at the latest if nothing else happens.
  absl::Time NextWake() const;
  // Tells the streams of the sequences that ended since the last call. Apart from Step so that whoever sees an end can
  // rely on stats() published before it.
  void DeliverEnds();
  // Ends every open sequence with `status`, and waits for what is in flight.
  void FailAll(const absl::Status& status);
  int32_t Flush();  // as KvStore

  EngineStats stats() const;
  uint64_t num_left_queue() const { return num_left_queue_; }  // once per sequence, by admission or by ending
  bool lost_device() const { return stats_.lost_device; }
  bool idle() const { return waiting_.empty() && running_.empty() && in_flight_.empty(); }
  // "" or the first violated invariant with its values; the second, of an idle engine.
  std::string CheckInvariants() const;
  std::string CheckIdle() const;

 private:
  using Ended = std::pair<std::shared_ptr<TokenStream>, SequenceEnd>;

  EngineCore(const EngineOptions& options, int max_model_len, ModelRunner* runner, const Clock* clock,
             EngineObserver* observer);

  // engine_core_admit.cc: who ends, who joins.
  void Reap(absl::Time now);
  void Admit(absl::Time now);
  int32_t PromisedPages(const Sequence& sequence) const;
  AdmissionNeed NeedOf(Sequence* sequence, int32_t free_pages);
  void Start(Sequence* sequence, absl::Time now);
  // engine_core_plan.cc: rows, pages and the batch.
  void PlanRows();
  void ClaimRows();
  void ReserveRows();
  void ReserveFor(size_t index);
  void UnblockRows();
  void Preempt(size_t index);
  bool BuildBatch();
  void ClearBatch();
  void AddToBatch(Sequence* sequence, int32_t num_rows);
  bool GoOnDecoding();
  bool DecodeAgain();
  // engine_core_draft.cc: speculation.
  void DraftRows();
  void AbsorbDraft(Sequence* sequence, std::span<const kernels::SampleResult> outputs, absl::Time now);
  // engine_core_absorb.cc: what a step brought.
  bool RunStep();
  void DescribeStep();
  void CountStep(absl::Duration wall);
  void AdvanceSequence(Planned* planned);
  void AbsorbSequence(const Planned& planned, size_t first_output, absl::Time now);
  void Absorb(absl::Time now);
  bool AdvanceRows(Sequence* sequence, int32_t num_rows);
  bool CountRows(Sequence* sequence, int32_t num_rows);
  void AppendToken(Sequence* sequence, const kernels::SampleResult& output, absl::Time now);
  void DropFinished();
  // engine_core_ahead.cc: a step that is planned and submitted while the one before it runs.
  bool runs_ahead() const { return runner_->info().max_steps_in_flight > 1; }
  uint64_t next_step() const { return stats_.steps + in_flight_.size(); }
  bool PrepareAhead();
  bool NeedsResult();
  void ExecuteAhead();
  bool SubmitStep();
  void WaitForStep();
  // engine_core_end.cc. Frees everything the sequence holds and queues its end; the caller drops it.
  void End(Sequence* sequence, Verdict verdict, int32_t stop_token = -1);
  void LoseDevice(const absl::Status& status);
  void WhenIdle();
  void ReportCacheEvents();

  const EngineOptions options_;
  const int max_model_len_;
  ModelRunner* const runner_;
  const Clock* const clock_;
  EngineObserver* const observer_;
  std::function<bool()> interrupt_;
  SequencePages pages_;
  TenantCounters tenants_;
  OutputPredictor predictor_;
  StepTimeModel step_time_;
  RowPlanner planner_;
  StepBatchBuilder builder_;
  Drafter drafter_;

  WaitingSequences waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission; nullptr only within a plan
  std::vector<Ended> ended_;
  uint64_t arrivals_ = 0, num_left_queue_ = 0;
  absl::Time next_due_ = absl::InfiniteFuture();  // no deadline or max_time passes before
  absl::Time last_look_;                          // when every open sequence was last seen not cancelled
  bool checked_idle_ = true;
  DecodeRate decode_rate_;
  EngineStats stats_;

  // Of the plan under way; kept from step to step.
  Victims victims_;
  int32_t time_limit_ = 0;           // rows of the step by the step-time model
  bool claimant_stopped_ = false;    // somebody may wait for a sequence that does not advance in this step
  bool decodes_only_ = false;        // every sequence that is not paused decoded, and nobody ended or paused since
  std::vector<RowView> views_;       // of running_
  std::vector<int32_t> plan_;        // rows by the planner,
  std::vector<int32_t> rows_;        // and what came of them
  SubmittedStep step_;               // the batch; then the step whose result is absorbed
  std::vector<Sequence*> decoders_;  // of a step that only decodes
  bool has_drafts_ = false;          // the batch has
  bool needs_result_ = false;        // somebody found no page: nobody is preempted while a step is in flight
  StepsInFlight in_flight_;
  absl::Time last_result_ = absl::InfinitePast();  // when the last step that was in flight came back
  StepResult result_;
  kv::CacheEvents events_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_ENGINE_CORE_H_
