// The backend seam: one virtual call per step, or two, so that the host can work while the device does. Everything
// above (engine, scheduler, kvstore) is the same for every device and for the fake model of the tests.
// Order: steps and moves take effect in the order of the calls, whatever is waited for when (a device's stream does
// that). So a page may be given away while a step that uses it is in flight: what comes to it later comes later.
// Thread-safety: engine thread only.  Owns (implementations): weights, page memory, the host tier's records, all
// scratch; nothing allocates after the first steps of each size. Errors of Step, Submit, Wait and MovePages: a non-OK
// status means the device is lost (UNAVAILABLE): no result may be used, the engine fails its sequences and runs no
// further step.
#ifndef DUNLIN_WORKER_MODEL_RUNNER_H_
#define DUNLIN_WORKER_MODEL_RUNNER_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/ops.h"
#include "kernels/sampling.h"
#include "kvstore/kv_types.h"

namespace dunlin::worker {

// One step's work as flat arrays, built by the engine, reused from step to step.
struct StepBatch {
  std::vector<int32_t> token_ids;  // [num_rows]; -1 where token_from_previous has the token
  // [num_rows], or empty when every token is known: the row's token is the one that this output of the step submitted
  // just before draws; -1 = token_ids has it. Only from a step that is in flight.
  std::vector<int32_t> token_from_previous;
  std::vector<int32_t> positions;                    // [num_rows]
  std::vector<kernels::SequenceSlice> sequences;     // their page tables outlive the step
  std::vector<int32_t> page_ids;                     // memory for tables that nobody else keeps
  std::vector<int32_t> output_rows;                  // [num_outputs] rows whose logits are wanted, ascending
  std::vector<kernels::SampleParams> sample_params;  // [num_outputs]; spans point into memory the engine owns
  int32_t num_prefill_rows = 0;                      // of num_rows; for the phase of the metrics
  int32_t num_rows() const { return static_cast<int32_t>(token_ids.size()); }
  kernels::BatchView view() const { return {num_rows(), token_ids.data(), positions.data(), sequences}; }
  void Clear() {
    token_ids.clear();
    token_from_previous.clear();
    positions.clear();
    sequences.clear();
    page_ids.clear();
    output_rows.clear();
    sample_params.clear();
    num_prefill_rows = 0;
  }
};

// How a step was launched by a backend that can record its launches: kernel by kernel; the same and recorded; or as a
// graph recorded before.
enum class GraphUse : uint8_t { kNone, kEager, kRecorded, kReplayed };
inline constexpr int kNumGraphUses = 4;

struct StepResult {
  std::vector<kernels::SampleResult> outputs;  // [num_outputs]
  kernels::Traffic traffic;                    // what the step moved
  absl::Duration device_time;                  // of the step
  int64_t kv_saturated_values = 0;
  GraphUse graph = GraphUse::kNone;  // kNone: the backend has no graphs
};

// What the engine and the metrics must know of a runner.
struct RunnerInfo {
  std::string device;  // "cpu", "cuda:0", "fake"
  std::string isa;     // "avx2", "scalar", ...
  int vocab_size = 0;
  int max_model_len = 0;  // tokens of one sequence
  int page_tokens = 0;
  int32_t num_pages = 0;
  uint64_t page_bytes = 0;
  int max_rows = 0;  // rows of one step
  // Steps submitted and not waited for, at most: 1, or 2 when the runner overrides Submit and Wait and takes
  // token_from_previous.
  int max_steps_in_flight = 1;
  int threads = 0;
  int decode_threads = 0;                      // of these, for steps of a few rows; 0 = all
  uint64_t weight_bytes = 0;                   // packed
  uint64_t kv_rounding_id = 0;                 // pages of runners with different ids hold different values
  double peak_bandwidth_bytes_per_second = 0;  // measured at start; 0 = not measured
  int32_t host_slots = 0;                      // whole-page records of the host tier; 0 = no host tier
  double host_bandwidth_bytes_per_second = 0;  // of bringing pages back from it, measured at start; 0 = not measured
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual const RunnerInfo& info() const = 0;
  // Runs the batch: appends K/V of every row, computes the outputs. result is overwritten. Not while a step is in
  // flight.
  virtual absl::Status Step(const StepBatch& batch, StepResult* result) = 0;
  // Step in two parts. Submit may return before the batch has run, and has copied what it needs of it: tokens, page
  // tables and what the sample_params point to may change or go at once.
  virtual absl::Status Submit(const StepBatch& batch) { return Step(batch, &kept_); }
  // The result of the oldest step in flight, once it has run. *result is overwritten.
  virtual absl::Status Wait(StepResult* result) {
    std::swap(*result, kept_);
    return absl::OkStatus();
  }
  // Carries the moves out, strictly in order; after the steps in flight and before the next one. *failed_pages is
  // overwritten: the pages whose kRestore failed (checksum, I/O), once per move; they hold anything. A kSave that
  // failed is found by its kRestore.
  virtual absl::Status MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) = 0;

 private:
  StepResult kept_;  // of a synchronous runner's Submit
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_MODEL_RUNNER_H_
