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
  if (options.decode_threads > info.threads) {
    return absl::InvalidArgumentError(absl::StrCat("decode_threads ", options.decode_threads, " is more than the ",
                                                   info.threads, " threads there are"));
  }
  return CreateRunner(
      file, options, std::move(ops), std::move(info), [&options](kernels::cpu::CpuOps* packed, RunnerInfo* of) {
        // Measured over the weights themselves: an arena for this alone would be the peak of the memory.
        const std::span<const uint8_t> weights = packed->packed().first_piece();
        of->weight_bytes = packed->packed_bytes();
        of->decode_threads = options.decode_threads;
        if (of->decode_threads == 0) {
          of->decode_threads = kernels::cpu::TuneReadThreads(packed->kernels(), &packed->pool(), weights);
        }
        packed->set_decode_threads(of->decode_threads);
        if (!options.measure_bandwidth) return;
        of->peak_bandwidth_bytes_per_second =
            kernels::cpu::MeasureReadBandwidth(packed->kernels(), &packed->pool(), weights);
      });
}

}  // namespace dunlin::worker
