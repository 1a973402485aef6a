#include "worker/runners/cpu_runner.h"

#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/roofline.h"
#include "worker/runners/create_runner.h"

namespace dunlin::worker {
namespace {

// Large against every cache, small enough to read in a few milliseconds.
constexpr size_t kBandwidthProbeBytes = size_t{256} << 20;

}  // namespace

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
  if (options.measure_bandwidth) {
    info.peak_bandwidth_bytes_per_second =
        kernels::cpu::MeasureReadBandwidth(ops->kernels(), &ops->pool(), kBandwidthProbeBytes);
  }
  return CreateRunner(file, options, std::move(ops), std::move(info),
                      [](const kernels::cpu::CpuOps& o) { return o.packed_bytes(); });
}

}  // namespace dunlin::worker
