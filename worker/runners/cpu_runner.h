// The CPU backend as a ModelRunner, and the same network on the plain reference ops.
// Thread-safety, ownership, errors: as ModelRunner.  Errors of Create: those of the model file; kResourceExhausted when
// the KV pool does not fit (saying what would); kInvalidArgument for an impossible option, naming it. Cost of Create:
// one pass over the file; about 0.05 s for measuring the bandwidth of the weights' memory (CPU ops only); the first
// time a model is opened with a rounding that needs it, a calibration (kv_rounding/calibrate.h).
#ifndef DUNLIN_WORKER_RUNNERS_CPU_RUNNER_H_
#define DUNLIN_WORKER_RUNNERS_CPU_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/paged_kv.h"
#include "model/model_file.h"
#include "worker/kv_formats.h"
#include "worker/memory_budget.h"
#include "worker/model_runner.h"
#include "worker/weights.h"

namespace dunlin::worker {

struct RunnerOptions {
  kernels::KvFormat k_format = kernels::KvFormat::kE4M3;
  kernels::KvFormat v_format = kernels::KvFormat::kE4M3;
  // Other than kNearest, with 8-bit pages: the model's calibration is loaded, or made and kept (kv_rounding/).
  KvRoundingMode kv_rounding = KvRoundingMode::kNearest;
  int page_tokens = 16;   // 8, 16, 32 or 64
  int max_model_len = 0;  // 0 = the model's context
  int max_rows = 256;     // rows of one step
  int max_num_seqs = 64;
  int threads = 0;         // 0 = every core this process may use
  int decode_threads = 0;  // of these, for steps of a few rows; 0 = as many as reading the weights gains from
  uint64_t kv_bytes = 0;   // 0 = by utilization
  double memory_utilization = 0.9;
  uint64_t swap_bytes = 0;        // of the host tier; 0 = none
  std::string swap_directory;     // of the host tier's file; empty = in memory
  int attention_window = 0;       // 0 = the model's own; else at most that; see attention_mask.h
  int attention_sinks = 0;        // needs a window, the model's or attention_window
  int attention_top_pages = 0;    // 0 = every page
  bool enforce_eager = false;     // no recorded steps; a backend that records none takes no notice
  int max_graph_context = 0;      // tokens; steps with a longer sequence are not recorded; 0 = no limit
  bool measure_bandwidth = true;  // off in tests that do not look at it
  LoadProgress progress;          // may be empty
  // Told one line about each thing worth a log entry; may be empty.
  std::function<void(const std::string&)> say;
};

// `file` is read during the call only.
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCpuRunner(const model::ModelFile& file,
                                                             const RunnerOptions& options);
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateReferenceRunner(const model::ModelFile& file,
                                                                   const RunnerOptions& options);

// What CreateCpuRunner would do, from the file's header alone.
struct RunnerPlan {
  std::string device = "cpu";
  KvPoolPlan pool;
  uint64_t page_bytes = 0;
  int max_model_len = 0;
  uint64_t weight_bytes = 0;   // the file's size; packed weights differ a little
  uint64_t scratch_bytes = 0;  // of a device's memory, for activations and tables; the host's grows with use
  int32_t host_slots = 0;      // pages of the host tier
};
absl::StatusOr<RunnerPlan> PlanRunner(const model::ModelFile& file, RunnerOptions options);

// Cores this process may use (its affinity mask).
int UsableCores();

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_CPU_RUNNER_H_
