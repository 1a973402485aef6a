#include "worker/runners/cpu_runner.h"

#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/roofline.h"
#include "worker/runners/create_runner.h"

namespace dunlin::worker {

absl::StatusOr<std::unique_ptr<ModelRunner>> CreateCpuRunner(const model::ModelFile& file,
                                                             const RunnerOptions& options) {
  std::string error;
  const std::optional<kernels::cpu::Isa> isa = kernels::cpu::SelectIsa(std::getenv("DUNLIN_ISA"), &error);
  if (!isa.has_value()) return absl::InvalidArgumentError(absl::StrCat("DUNLIN_ISA: ", error));
  RunnerInfo info;
  info.device = "cpu";
  info.threads = options.threads > 0 ? options.threads : UsableCores();
  auto ops = std::make_unique<kernels::cpu::CpuOps>(info.threads, *isa);
  info.isa = ops->isa_name();
  return CreateRunner(file, options, std::move(ops), std::move(info),
                      [measure = options.measure_bandwidth](kernels::cpu::CpuOps* packed, RunnerInfo* of) {
                        of->weight_bytes = packed->packed_bytes();
                        if (!measure) return;
                        // Over the weights themselves: an arena for this alone would be the peak of the memory.
                        of->peak_bandwidth_bytes_per_second = kernels::cpu::MeasureReadBandwidth(
                            packed->kernels(), &packed->pool(), packed->packed().first_piece());
                      });
}

}  // namespace dunlin::worker
