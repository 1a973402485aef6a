// Which device a worker runs on, by the word of --device, and a runner on it.
// Thread-safety: start-up only.  Owns: an opened device, until it goes into a runner.
// Errors (ChooseDevice): for "cuda" kUnimplemented where the build has no CUDA backend, kFailedPrecondition where no
// device opens, saying why; "auto" takes the CPU then and keeps the reason. The others: those of the backend.
#ifndef DUNLIN_WORKER_RUNNERS_BACKEND_H_
#define DUNLIN_WORKER_RUNNERS_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/cuda/runtime.h"
#include "model/model_file.h"
#include "worker/model_runner.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {

struct DeviceChoice {
  std::unique_ptr<kernels::cuda::Device> cuda;  // nullptr: the CPU
  std::string why_cpu;                          // why "auto" came to the CPU, as part of a sentence; else empty
};

// word: auto, cpu or cuda. Of several CUDA devices the first that CUDA_VISIBLE_DEVICES leaves.
absl::StatusOr<DeviceChoice> ChooseDevice(absl::string_view word);

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunnerOn(DeviceChoice choice, const model::ModelFile& file,
                                                            const RunnerOptions& options);
absl::StatusOr<RunnerPlan> PlanRunnerOn(const DeviceChoice& choice, const model::ModelFile& file,
                                        const RunnerOptions& options);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_BACKEND_H_
