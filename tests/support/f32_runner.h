// A runner on the CPU backend with every weight widened to f32 at load, and so with f32 activations throughout: the
// arithmetic of the reference network at a tenth of its time. Thread-safety, ownership, errors: as CreateCpuRunner.
// Cost: four bytes per parameter.
#ifndef DUNLIN_TESTS_SUPPORT_F32_RUNNER_H_
#define DUNLIN_TESTS_SUPPORT_F32_RUNNER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/quant_format.h"
#include "model/model_file.h"
#include "tests/support/runner_driver.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/create_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::testing {

class F32Ops : public kernels::cpu::CpuOps {
 public:
  using kernels::cpu::CpuOps::CpuOps;

  Matrix Pack(kernels::DType type, int rows, int cols, std::span<const uint8_t> bytes) {
    std::vector<float> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    kernels::DequantizeRow(type, bytes, values);
    return CpuOps::Pack(kernels::DType::kF32, rows, cols,
                        {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)});
  }
};

inline absl::StatusOr<std::unique_ptr<worker::ModelRunner>> CreateF32Runner(const model::ModelFile& file,
                                                                            const worker::RunnerOptions& options) {
  worker::RunnerInfo info;
  info.threads = options.threads > 0 ? options.threads : worker::UsableCores();
  auto ops = std::make_unique<F32Ops>(info.threads, kernels::cpu::SupportedIsas().back());
  info.isa = ops->isa_name();
  return worker::CreateRunner(
      file, options, std::move(ops), std::move(info),
      [](F32Ops* packed, worker::RunnerInfo* of) { of->weight_bytes = packed->packed_bytes(); });
}

// Drives a runner whose backend is Ops.
template <typename Ops>
RunnerDriver MakeDriver(worker::ModelRunner* runner) {
  return RunnerDriver(runner, [runner] { return static_cast<worker::TransformerRunner<Ops>*>(runner)->TEST_logits(); });
}

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_F32_RUNNER_H_
