// The default model on the emulated CUDA backend against the CPU runner: a prompt and a few tokens. Minutes: it runs
// with DUNLIN_TEST_FULL=1 only (tools/test --all).
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/f32_runner.h"
#include "tests/support/logits_comparison.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "tests/worker/runners/cuda_runner_fixture.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/cuda_backend.h"

namespace dunlin::worker {
namespace {

// Where a rounding falls differently a trained model carries the difference far in single logits, so the measure is the
// divergence of what they say about the next token. Int8 activations and FP8 pages are 3e-3 and 1e-2 from exact
// arithmetic in the mean (README, Measured); two that round differently are at most both of these apart.
constexpr double kMeanDivergence = 2.6e-2;

// KL(want || got) of two rows of logits, in nats.
double Divergence(const Row& want, const Row& got) {
  const double want_sum = testing::LogSumExp(want), got_sum = testing::LogSumExp(got);
  double kl = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double p = static_cast<double>(want[i]) - want_sum, q = static_cast<double>(got[i]) - got_sum;
    kl += std::exp(p) * (p - q);
  }
  return kl;
}

TEST(CudaDefaultModel, LogitsAreTheCpus) {
  const char* const full = std::getenv("DUNLIN_TEST_FULL");
  if (full == nullptr || std::string(full) != "1") GTEST_SKIP() << "minutes: runs with DUNLIN_TEST_FULL=1";
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not here";
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  RunnerOptions options;
  options.max_model_len = 64;
  options.max_rows = 16;
  options.max_num_seqs = 1;
  options.kv_bytes = uint64_t{4} << 20;
  options.measure_bandwidth = false;
  ASSERT_OK_AND_ASSIGN(const auto cpu, CreateCpuRunner(*file, options));
  ASSERT_OK_AND_ASSIGN(const auto cuda, CreateCudaRunner(*file, options, OpenDevice()));
  testing::RunnerDriver want = testing::MakeDriver<kernels::cpu::CpuOps>(cpu.get());
  testing::RunnerDriver got(cuda.get(), [&cuda] { return static_cast<CudaRunner*>(cuda.get())->TEST_logits(); });
  testing::RunnerDriver::Sequence a, b;
  // "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
  const std::vector<int32_t> prompt = {1, 4093, 198, 1780, 314, 9354, 47, 2, 198, 1, 520, 9531, 198};
  const auto last = [&prompt](int position) { return position + 1 == static_cast<int>(prompt.size()); };
  std::vector<Row> want_rows = want.Feed(&a, prompt, 16, last), got_rows = got.Feed(&b, prompt, 16, last);
  for (int i = 0; i < 6; ++i) {
    const int32_t next = ArgMax(want_rows.back());
    want_rows.push_back(want.Step({{&a, {next}, {0}}})[0]);
    got_rows.push_back(got.Step({{&b, {next}, {0}}})[0]);
  }
  double sum = 0;
  for (size_t i = 0; i < want_rows.size(); ++i) {
    const double kl = Divergence(want_rows[i], got_rows[i]);
    std::printf("token %zu: choice %d, the CPU's %d; divergence %.2e\n", i, ArgMax(got_rows[i]), ArgMax(want_rows[i]),
                kl);
    EXPECT_EQ(ArgMax(got_rows[i]), ArgMax(want_rows[i])) << "token " << i;
    sum += kl;
  }
  const double mean = sum / static_cast<double>(want_rows.size());
  EXPECT_TRUE(mean <= kMeanDivergence) << mean;
}

}  // namespace
}  // namespace dunlin::worker
