#include "kernels/reference/reference_ops.h"
#include "worker/runners/create_runner.h"

namespace dunlin::worker {

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateReferenceRunner(const model::ModelFile& file,
                                                                   const RunnerOptions& options) {
  RunnerInfo info;
  info.device = "cpu";
  info.isa = "reference";
  info.threads = options.threads > 0 ? options.threads : UsableCores();
  auto ops = std::make_unique<kernels::ReferenceOps>(info.threads);
  return CreateRunner(file, options, std::move(ops), std::move(info),
                      [&file](kernels::ReferenceOps*, RunnerInfo* of) { of->weight_bytes = file.file_bytes(); });
}

}  // namespace dunlin::worker
