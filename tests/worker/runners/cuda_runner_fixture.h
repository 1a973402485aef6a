// A small model served by the CUDA runner, and by the CPU runner beside it. The tests over it are linked twice: with
// the emulator and, where the backend is built, with the CUDA runtime: these skip without a device and say why.
// Thread-safety: test thread only.  Owns: the file on disk until the end.
#ifndef DUNLIN_TESTS_WORKER_RUNNERS_CUDA_RUNNER_FIXTURE_H_
#define DUNLIN_TESTS_WORKER_RUNNERS_CUDA_RUNNER_FIXTURE_H_

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/runtime.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/runner_driver.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/cuda_backend.h"
#include "worker/runners/cuda_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::worker {

inline std::unique_ptr<kernels::cuda::Device> OpenDevice() {
  std::string why;
  std::unique_ptr<kernels::cuda::Device> device = kernels::cuda::Device::Open(0, &why);
  CHECK(device != nullptr) << why;
  return device;
}

using Row = std::vector<float>;

inline int32_t ArgMax(const Row& row) {
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}
inline double Norm(const Row& row) {
  double sum = 0;
  for (const float x : row) sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum);
}
// |got - want|_2 / |want|_2; NaN where any value is.
inline double RelativeError(const Row& got, const Row& want) {
  double sum = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(want[i]);
    sum += d * d;
  }
  return std::sqrt(sum) / Norm(want);
}

class CudaRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (kernels::cuda::Device::Count(&why) == 0) GTEST_SKIP() << "no device: " << why;
  }
  static kernels::cuda::DeviceInfo TheDevice() { return OpenDevice()->info(); }
  CudaRunnerTest() {
    model_.hidden_size = 128;
    model_.ffn_size = 192;
    model_.num_q_heads = 4;
    model_.num_kv_heads = 2;
    model_.head_dim = 64;  // the least that the attention kernels take
    options_.max_model_len = 128;
    options_.max_rows = 48;
    options_.max_num_seqs = 48;  // and so 48 rows of logits at a time, for the driver
    options_.threads = 1;
    options_.measure_bandwidth = false;
    options_.kv_bytes = uint64_t{1} << 20;
  }
  ~CudaRunnerTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }

  // Of model_, which may be changed before the first call. In a folder of its own: a calibration is kept beside it.
  const model::GgufFile& File() {
    if (file_ == nullptr) {
      std::filesystem::create_directories(directory_);
      const std::string path = directory_ + "/model.gguf";
      std::ofstream(path, std::ios::binary) << testing::BuildTinyLlama(model_);
      file_ = model::GgufFile::Open(path).value();
    }
    return *file_;
  }
  std::unique_ptr<CudaRunner> Cuda(const RunnerOptions& options) {
    absl::StatusOr<std::unique_ptr<ModelRunner>> runner = CreateCudaRunner(File(), options, OpenDevice());
    CHECK(runner.ok()) << runner.status().ToString();
    return std::unique_ptr<CudaRunner>(static_cast<CudaRunner*>(runner->release()));
  }
  std::unique_ptr<CudaRunner> Cuda() { return Cuda(options_); }
  std::unique_ptr<ModelRunner> Cpu(const RunnerOptions& options) {
    absl::StatusOr<std::unique_ptr<ModelRunner>> runner = CreateCpuRunner(File(), options);
    CHECK(runner.ok()) << runner.status().ToString();
    return *std::move(runner);
  }
  static testing::RunnerDriver Driver(CudaRunner* runner) {
    return testing::RunnerDriver(runner, [runner] { return runner->TEST_logits(); });
  }
  static testing::RunnerDriver CpuDriver(ModelRunner* runner) {
    return testing::RunnerDriver(
        runner, [runner] { return static_cast<TransformerRunner<kernels::cpu::CpuOps>*>(runner)->TEST_logits(); });
  }

  static std::vector<int32_t> Prompt(int tokens, unsigned seed) {
    std::mt19937 rng(seed);
    std::vector<int32_t> ids;
    for (int i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>(rng() % 250) + 3);
    return ids;
  }

  testing::TinyLlamaOptions model_;
  RunnerOptions options_;

 private:
  const std::string directory_ = ::testing::TempDir() + "cuda_runner_" + std::to_string(::getpid());
  std::unique_ptr<model::GgufFile> file_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_TESTS_WORKER_RUNNERS_CUDA_RUNNER_FIXTURE_H_
