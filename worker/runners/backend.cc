// Compiled with DUNLIN_CUDA=1 where the CUDA backend is linked; `dunlin serve`, which links none, asks the same.
#include "worker/runners/backend.h"

#include <utility>

#include "absl/strings/str_cat.h"

#if DUNLIN_CUDA
#include "worker/runners/cuda_backend.h"
#endif

namespace dunlin::worker {

#if DUNLIN_CUDA

namespace {

std::unique_ptr<kernels::cuda::Device> OpenFirst(std::string* why) {
  if (kernels::cuda::Device::Count(why) == 0) return nullptr;
  return kernels::cuda::Device::Open(0, why);
}

}  // namespace

absl::StatusOr<DeviceChoice> ChooseDevice(absl::string_view word) {
  DeviceChoice choice;
  if (word == "cpu") return choice;
  choice.cuda = OpenFirst(&choice.why_cpu);
  if (choice.cuda == nullptr && word == "cuda") {
    return absl::FailedPreconditionError(absl::StrCat("--device cuda: ", choice.why_cpu));
  }
  return choice;
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunnerOn(DeviceChoice choice, const model::ModelFile& file,
                                                            const RunnerOptions& options) {
  if (choice.cuda == nullptr) return CreateCpuRunner(file, options);
  return CreateCudaRunner(file, options, std::move(choice.cuda));
}

absl::StatusOr<RunnerPlan> PlanRunnerOn(const DeviceChoice& choice, const model::ModelFile& file,
                                        const RunnerOptions& options) {
  if (choice.cuda == nullptr) return PlanRunner(file, options);
  return PlanCudaRunner(file, options, choice.cuda.get());
}

#else

absl::StatusOr<DeviceChoice> ChooseDevice(absl::string_view word) {
  if (word == "cuda") {
    return absl::UnimplementedError("--device cuda: this build has no CUDA backend; use --device cpu or auto");
  }
  return DeviceChoice{nullptr, word == "auto" ? "this build has no CUDA backend" : ""};
}

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunnerOn(DeviceChoice, const model::ModelFile& file,
                                                            const RunnerOptions& options) {
  return CreateCpuRunner(file, options);
}

absl::StatusOr<RunnerPlan> PlanRunnerOn(const DeviceChoice&, const model::ModelFile& file,
                                        const RunnerOptions& options) {
  return PlanRunner(file, options);
}

#endif

}  // namespace dunlin::worker
