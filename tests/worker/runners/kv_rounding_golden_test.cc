// What centring and compensated rounding are for, on the default model and golden text, in f32 arithmetic: how far
// 8-bit pages are from f32 pages. tests/bench/kv_accuracy_bench prints the whole table over all windows; this holds its
// bounds on four of them.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/f32_runner.h"
#include "tests/support/logits_comparison.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin::worker {
namespace {

namespace fs = std::filesystem;
using kernels::KvFormat;
using testing::LogitsComparison;

constexpr int kWindows = 4;
constexpr testing::ScoredWindow kWindow;

class KvRoundingGoldenTest : public ::testing::Test {
 protected:
  KvRoundingGoldenTest() : folder_(::testing::TempDir() + "kv_rounding_golden_" + std::to_string(::getpid())) {
    const auto all = testing::ReadArray<uint32_t>(testing::GoldenPath("ppl_tokens.u32"));
    for (size_t w = 0; w < kWindows; ++w) {
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(w * size_t{kWindow.tokens});
      windows_.emplace_back(begin, begin + kWindow.tokens);
    }
  }
  ~KvRoundingGoldenTest() override { fs::remove_all(folder_); }

  std::vector<testing::LogitRows> Score(KvFormat k, KvFormat v, KvRoundingMode mode) {
    RunnerOptions options;
    options.k_format = k;
    options.v_format = v;
    options.kv_rounding = mode;
    options.max_model_len = kWindow.tokens;
    options.max_rows = 64;
    options.max_num_seqs = 1;
    options.kv_bytes = uint64_t{128} << 20;
    options.measure_bandwidth = false;
    const auto runner = testing::CreateF32Runner(*file_, options);
    EXPECT_OK(runner);
    std::vector<testing::LogitRows> rows;
    testing::RunnerDriver driver = testing::MakeDriver<testing::F32Ops>(runner->get());
    for (const std::vector<int32_t>& window : windows_) rows.push_back(ScoreWindow(&driver, kWindow, window));
    return rows;
  }

  std::string folder_;
  std::vector<std::vector<int32_t>> windows_;
  std::unique_ptr<model::GgufFile> file_;
};

TEST_F(KvRoundingGoldenTest, CompensatedPagesAreWithinTheirBounds) {
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not in the cache";
  // Through a link, so that the calibration is kept in the test's own folder.
  fs::create_directories(folder_);
  fs::create_symlink(path, folder_ + "/model.gguf");
  ASSERT_OK_AND_ASSIGN(file_, model::GgufFile::Open(folder_ + "/model.gguf"));
  const std::vector<testing::LogitRows> want = Score(KvFormat::kF32, KvFormat::kF32, KvRoundingMode::kNearest);
  const struct {
    const char* name;
    KvFormat k, v;
    double kl_mean, top1;
  } cases[] = {{"fp8", KvFormat::kE4M3, KvFormat::kE4M3, 6e-3, 0.96},
               {"int8_fp8", KvFormat::kInt8, KvFormat::kE4M3, 2e-3, 0.97},
               {"int8", KvFormat::kInt8, KvFormat::kInt8, 6e-4, 0.975}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const std::vector<testing::LogitRows> got = Score(c.k, c.v, KvRoundingMode::kCompensated);
    LogitsComparison sum;
    for (size_t w = 0; w < windows_.size(); ++w) sum.AddWindow(kWindow, want[w], got[w], windows_[w]);
    std::printf("%-9s KL mean %.2e max %.2e  top-1 %.4f  PPL ratio %.5f\n", c.name, sum.kl_mean(), sum.kl_max,
                sum.top1(), sum.perplexity_ratio());
    EXPECT_TRUE(sum.kl_mean() <= c.kl_mean) << sum.kl_mean();
    EXPECT_TRUE(sum.top1() >= c.top1) << sum.top1();
    // A thousand tokens tell the perplexity to about this much.
    EXPECT_NEAR(sum.perplexity_ratio(), 1.0, 0.01);
  }
}

}  // namespace
}  // namespace dunlin::worker
