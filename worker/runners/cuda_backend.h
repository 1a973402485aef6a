// From a model file and an open device to a CudaRunner, and what it would come to.
// Thread-safety: start-up only.  Owns: the device goes into the runner; the file is read during the call only.
// Errors: those of the model file; kInvalidArgument for an impossible option and kUnimplemented for one that these
// kernels lack, naming it; kResourceExhausted when weights, scratch or pages do not fit, with the figures; kUnavailable
// when the device fails. Cost of CreateCudaRunner: one pass over the file (two where the rounding of K and V has to be
// measured: on the CPU, once per model), tens of milliseconds for the bandwidth and the first steps.
#ifndef DUNLIN_WORKER_RUNNERS_CUDA_BACKEND_H_
#define DUNLIN_WORKER_RUNNERS_CUDA_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/runtime.h"
#include "model/model_file.h"
#include "worker/model_runner.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCudaRunner(const model::ModelFile& file, RunnerOptions options,
                                                              std::unique_ptr<kernels::cuda::Device> device);

absl::StatusOr<RunnerPlan> PlanCudaRunner(const model::ModelFile& file, RunnerOptions options,
                                          kernels::cuda::Device* device);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_CUDA_BACKEND_H_
