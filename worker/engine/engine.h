// The engine of one worker: takes sequences, schedules steps, runs them, streams tokens. One thread owns every
// sequence, the scheduler and the KV bookkeeping; nothing inside takes a lock. Thread-safety: Submit, Wake, Stop, Flush
// and Snapshot from any thread; the rest is private to the engine thread. Owns: the KV store, the scheduler, its
// thread.  Borrows: the runner and the clock. Errors (Submit): kResourceExhausted when the inbox is full, kOutOfRange
// when the prompt cannot fit, kInvalidArgument for ids outside the vocabulary, kUnavailable once stopping. Contract in
// prose: worker/engine/CONTRACT.md.
#ifndef DUNLIN_WORKER_ENGINE_ENGINE_H_
#define DUNLIN_WORKER_ENGINE_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kernels/sampling.h"
#include "worker/model_runner.h"
#include "worker/sampling/sampling_spec.h"
#include "worker/scheduler/draft_planner.h"
#include "worker/service/token_stream.h"

namespace dunlin::worker {

struct NewSequence {
  std::string request_id;
  std::vector<int32_t> prompt;  // >= 1 token
  SamplingSpec sampling;
  int32_t max_tokens = 0;            // >= 0; 0 only with prompt logprobs
  int32_t min_tokens = 0;            // end-of-generation tokens are banned before this many
  std::vector<int32_t> stop_tokens;  // the client's
  bool ignore_eos = false;
  int32_t num_logprobs = -1;  // as SampleParams::num_top
  int32_t num_prompt_logprobs = -1;
  absl::Time deadline = absl::InfiniteFuture();        // gRPC deadline: ends with DEADLINE_EXCEEDED
  absl::Duration max_time = absl::InfiniteDuration();  // ends with kMaxTime and status OK
  std::string tenant;                    // whose share of the device it uses; "" is a tenant like any other
  int32_t max_draft_tokens = INT32_MAX;  // guessed and verified in one step, at most; 0 = none
  int32_t priority = 0;                  // higher first, in the queue and when somebody must be preempted
  std::string cache_namespace;
  bool cache_read = true;
  bool cache_write = true;
  std::shared_ptr<TokenStream> stream;  // never null
};

// When a page comes back from the host tier instead of being computed again.
enum class HostRestore : uint8_t { kWhenFaster, kAlways, kNever };

// What a sequence is promised when it joins: its tokens and the output that is predicted for it, or its worst case
// (then nobody is ever preempted), or its tokens alone (then somebody often is; for tests).
enum class AdmissionPromise : uint8_t { kPredictedOutput, kWorstCase, kTokens };

struct EngineOptions {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 256;
  int inbox_capacity = 1024;
  std::vector<int32_t> end_of_generation;  // ascending token ids
  size_t max_unread_bytes = 1 << 20;       // a slower reader pauses its own sequence
  absl::Duration reader_stall_limit = absl::Seconds(30);
  bool enable_prefix_caching = true;
  HostRestore host_restore = HostRestore::kWhenFaster;
  AdmissionPromise promise = AdmissionPromise::kPredictedOutput;
  int num_scheduler_steps = 1;  // decode steps per plan, at most; a runner that runs ahead has one
  // Prompts get so few rows beside decoding sequences that a step is predicted to take no longer; 0 = no target.
  absl::Duration inter_token_target = absl::ZeroDuration();
  int num_speculative_tokens = 0;  // drafted per sequence and step, at most; 0 = none
  Drafting drafting = Drafting::kWhenWorthIt;
  bool record_cache_events = false;  // for EngineObserver::OnCacheEvents
};

// A consistent picture, taken before and after each step; waiting is the count of now.
struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t waiting_preempted = 0;  // of them, those that ran before
  int32_t blank_pages = 0, held_pages = 0, cached_pages = 0, quarantine_pages = 0, total_pages = 0;
  uint64_t steps = 0;
  uint64_t plans = 0;        // steps that were planned; the others went on with the plan before
  uint64_t steps_ahead = 0;  // submitted before the result of the step before them was there
  uint64_t void_rows = 0;    // computed for sequences that had ended meanwhile
  uint64_t prompt_tokens = 0, generated_tokens = 0;
  uint64_t drafts = 0, draft_tokens = 0;  // verified
  uint64_t accepted_draft_tokens = 0;     // of them, those that were drawn
  uint64_t preemptions = 0;
  uint64_t recomputed_tokens = 0;  // computed again after a preemption
  int32_t reserved_pages = 0;      // promised to running sequences and not yet taken
  int32_t pinned_pages = 0;
  uint64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;
  uint64_t evictions = 0;
  uint64_t dedup_pages = 0, copied_pages = 0;
  int32_t host_tier_pages = 0, host_tier_slots = 0;
  uint64_t host_tier_bytes_out = 0, host_tier_bytes_in = 0;
  uint64_t host_tier_hit_tokens = 0;
  uint64_t host_tier_failures = 0;    // records that came back damaged
  double vtc_spread_tokens = 0;       // largest difference of service between two tenants that wait
  double predicted_step_seconds = 0;  // of the last step, by the step-time model
  uint64_t invariant_failures = 0;    // idle checks that failed; stays 0
  uint64_t kv_saturated_values = 0;
  double decode_tokens_per_second = 0;  // over the last second or so
  bool lost_device = false;
};

// What the metrics hear, on the engine thread; must not block. All durations are of one event.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnStep(int prefill_rows, int decode_rows, const StepResult& result, absl::Duration wall) = 0;
  virtual void OnScheduled(absl::Duration queue_time) = 0;
  virtual void OnFirstToken(absl::Duration ttft) = 0;
  virtual void OnInterTokenLatency(absl::Duration itl) = 0;
  virtual void OnCancelToFree(absl::Duration cancel_to_free) = 0;
  // Prefix hashes of pages that came into and left the cache since the last call; removed ones first.
  virtual void OnCacheEvents(std::span<const uint64_t> added, std::span<const uint64_t> removed) = 0;
  // Once, when Snapshot says so already.
  virtual void OnDeviceLost() {}
};

class Engine {
 public:
  // Starts the thread. runner, clock and observer (may be nullptr) must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, ModelRunner* runner,
                                                        const Clock* clock, EngineObserver* observer);
  // Fails every open sequence with UNAVAILABLE and joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  absl::Status Submit(NewSequence sequence);
  // Makes the engine look at cancellations and deadlines now, also when it is idle. Call after TokenStream::Cancel.
  void Wake();
  // Drops every cached, unreferenced page; returns how many. Blocks until the engine thread did it.
  int32_t FlushCache();
  EngineStats Snapshot() const;
  // No new sequence is taken from now on; open ones go on.
  void StopAdmission();

 private:
  class Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_ENGINE_H_
