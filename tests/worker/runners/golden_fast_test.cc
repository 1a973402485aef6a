// What the fast path's rounding costs the default model: int8 activations with f32, FP8 and INT8 pages against f32
// arithmetic, over the first six perplexity windows of the golden data, within the tolerances that
// tests/golden/README.md recommends. The f32 side is the reference network (itself checked by golden_reference_test)
// and, token by token, the stored negative log-likelihoods.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/reference/reference_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/golden_prompts.h"
#include "tests/support/logits_comparison.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::worker {
namespace {

using kernels::KvFormat;
using testing::LogitRows;
using testing::LogitsComparison;
using testing::RunnerDriver;
using testing::ScoredWindow;

constexpr int kWindows = 6;
constexpr ScoredWindow kWindow;  // as the golden data was made
constexpr int kChunk = 64;

RunnerOptions Options(KvFormat k, KvFormat v) {
  RunnerOptions options;
  options.k_format = k;
  options.v_format = v;
  options.max_model_len = 1024;
  options.max_rows = kChunk;
  options.max_num_seqs = 1;
  options.kv_bytes = uint64_t{256} << 20;
  options.measure_bandwidth = false;
  return options;
}

template <typename Ops>
RunnerDriver MakeDriver(ModelRunner* runner) {
  return RunnerDriver(runner, [runner] { return static_cast<TransformerRunner<Ops>*>(runner)->TEST_logits(); });
}

struct Bounds {
  double nmse, kl_mean, kl_max, top1, ppl_ratio, top64;
};
struct Path {
  const char* name;
  KvFormat k, v;
  Bounds bounds;
  std::unique_ptr<ModelRunner> runner;
  LogitsComparison sum;
};

TEST(GoldenFastTest, RoundingCostsNoMoreThanTheGoldenTolerances) {
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not in the cache";
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  ASSERT_OK_AND_ASSIGN(const auto reference, CreateReferenceRunner(*file, Options(KvFormat::kF32, KvFormat::kF32)));
  // The last column bounds the largest error among the 64 best logits; FP8 pages have no such bound (see the README
  // there). The INT8 row is the sum of the README's rows for int8 activations and for INT8 pages.
  Path paths[] = {
      {"int8 activations, f32 pages", KvFormat::kF32, KvFormat::kF32, {1.5e-3, 6e-3, 0.15, 0.955, 1.01, 2.5}, {}, {}},
      {"int8 activations, FP8 pages", KvFormat::kE4M3, KvFormat::kE4M3, {5e-3, 0.03, 2, 0.90, 1.035, INFINITY}, {}, {}},
      {"int8 activations, INT8 pages",
       KvFormat::kInt8,
       KvFormat::kInt8,
       {1.9e-3, 9e-3, 0.45, 0.92, 1.015, 5.5},
       {},
       {}},
  };
  for (Path& p : paths) {
    ASSERT_OK_AND_ASSIGN(p.runner, CreateCpuRunner(*file, Options(p.k, p.v)));
  }
  const std::vector<uint32_t> all = testing::ReadArray<uint32_t>(testing::GoldenPath("ppl_tokens.u32"));
  const std::vector<float> stored_nll = testing::ReadArray<float>(testing::GoldenPath("ppl_nll.f32"));
  RunnerDriver reference_driver = MakeDriver<kernels::ReferenceOps>(reference.get());
  const auto num_tokens = size_t{kWindow.tokens};
  for (size_t w = 0; w < kWindows; ++w) {
    const std::vector<int32_t> tokens(all.begin() + static_cast<std::ptrdiff_t>(w * num_tokens),
                                      all.begin() + static_cast<std::ptrdiff_t>((w + 1) * num_tokens));
    const LogitRows want = ScoreWindow(&reference_driver, kWindow, tokens);
    for (size_t i = 0; i < want.size(); ++i) {
      const auto target = static_cast<size_t>(tokens[size_t{kWindow.first_scored} + 1 + i]);
      const double nll = testing::LogSumExp(want[i]) - static_cast<double>(want[i][target]);
      ASSERT_NEAR(nll, stored_nll[w * want.size() + i], 2e-3) << "window " << w << " target " << i;
    }
    for (Path& p : paths) {
      RunnerDriver driver = MakeDriver<kernels::cpu::CpuOps>(p.runner.get());
      p.sum.AddWindow(kWindow, want, ScoreWindow(&driver, kWindow, tokens), tokens);
    }
  }
  for (const Path& p : paths) {
    const LogitsComparison& s = p.sum;
    const double nmse = s.nmse(), top1 = s.top1(), ratio = s.perplexity_ratio();
    std::printf("%-30s NMSE %.2e  KL mean %.2e max %.2e  top-1 %.4f  PPL %.3f ratio %.5f  top-64 %.2f\n", p.name, nmse,
                s.kl_mean(), s.kl_max, top1, s.perplexity(), ratio, s.max_error_top64);
    SCOPED_TRACE(p.name);
    EXPECT_TRUE(nmse <= p.bounds.nmse) << nmse;
    EXPECT_TRUE(s.kl_mean() <= p.bounds.kl_mean) << s.kl_mean();
    EXPECT_TRUE(s.kl_max <= p.bounds.kl_max) << s.kl_max;
    EXPECT_TRUE(top1 >= p.bounds.top1) << top1;
    EXPECT_TRUE(ratio <= p.bounds.ppl_ratio) << ratio;
    EXPECT_TRUE(s.max_error_top64 <= p.bounds.top64) << s.max_error_top64;
  }
}

// Greedy continuations with the FP8 cache, while the f32 margin is wider than the guard that the golden data gives (3
// for FP8).
TEST(GoldenFastTest, GreedyContinuationsAgreeWhereTheMarginIsWide) {
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not in the cache";
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file, Options(KvFormat::kE4M3, KvFormat::kE4M3)));
  int compared = 0;
  for (const testing::GoldenPrompt& prompt : testing::LoadGoldenPrompts()) {
    if (prompt.ids.size() > 600) continue;
    SCOPED_TRACE(prompt.name);
    RunnerDriver driver = MakeDriver<kernels::cpu::CpuOps>(runner.get());
    RunnerDriver::Sequence sequence;
    const int last = static_cast<int>(prompt.ids.size()) - 1;
    driver.Feed(&sequence, prompt.ids, kChunk, [last](int pos) { return pos == last; });
    for (const testing::GoldenStep& want :
         prompt.greedy) {  // teacher forcing: every step is compared on the golden prefix
      if (want.margin > 3.0) {
        EXPECT_EQ(driver.last_result().outputs.back().token, want.id) << "margin " << want.margin;
        ++compared;
      }
      driver.Step({{&sequence, {want.id}, {0}}});
    }
  }
  EXPECT_GE(compared, 100);
}

}  // namespace
}  // namespace dunlin::worker
