// The whole network on the plain ops, against numbers that an independent float64 implementation computed for the
// default model (tests/golden/README.md): f32 arithmetic, f32 pages. Tolerance: 3e-4 on every logit, which the golden
// data gives for exact angles.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "model/gguf/gguf_file.h"
#include "tests/support/golden_prompts.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/create_runner.h"
#include "worker/runners/transformer_runner.h"

namespace dunlin::worker {
namespace {

using testing::GoldenPosition;
using testing::GoldenPrompt;
using testing::RunnerDriver;
using ReferenceRunner = TransformerRunner<kernels::ReferenceOps>;

constexpr double kLogitTolerance = 3e-4;
constexpr double kGreedyMarginGuard = 0.01;
constexpr int kLongestPrompt = 264;
constexpr int kLongestContinued = 130;  // prompts whose continuations are compared

class GoldenReferenceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string path = testing::DefaultModelPath();
    if (path.empty()) return;
    auto file = model::GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    RunnerOptions options;
    options.k_format = options.v_format = kernels::KvFormat::kF32;
    options.max_model_len = 1024;
    options.max_rows = 64;
    options.max_num_seqs = 2;
    options.kv_bytes = uint64_t{256} << 20;
    auto runner = CreateReferenceRunner(**file, options);
    ASSERT_TRUE(runner.ok()) << runner.status();
    runner_ = runner->release();
    prompts_ = new std::vector<GoldenPrompt>(testing::LoadGoldenPrompts());
  }
  static void TearDownTestSuite() {
    delete runner_;
    delete prompts_;
    runner_ = nullptr;
    prompts_ = nullptr;
  }
  void SetUp() override {
    if (runner_ == nullptr) GTEST_SKIP() << "the default model is not in the cache";
  }
  static RunnerDriver Driver() {
    return RunnerDriver(runner_, [] { return static_cast<ReferenceRunner*>(runner_)->TEST_logits(); });
  }
  static const GoldenPrompt& Prompt(const std::string& name) {
    for (const GoldenPrompt& p : *prompts_) {
      if (p.name == name) return p;
    }
    CHECK(false) << name;
    return prompts_->front();
  }

  static ModelRunner* runner_;
  static std::vector<GoldenPrompt>* prompts_;
};
ModelRunner* GoldenReferenceTest::runner_ = nullptr;
std::vector<GoldenPrompt>* GoldenReferenceTest::prompts_ = nullptr;

double LogSumExp(const std::vector<float>& logits) {
  double max = -INFINITY, sum = 0.0;
  for (const float l : logits) max = std::max(max, static_cast<double>(l));
  for (const float l : logits) sum += std::exp(static_cast<double>(l) - max);
  return max + std::log(sum);
}

void ExpectPosition(const GoldenPosition& want, const std::vector<float>& logits) {
  for (const auto& [id, logit] : want.top) {
    EXPECT_NEAR(logits[static_cast<size_t>(id)], logit, kLogitTolerance) << "token " << id << " at " << want.pos;
  }
  EXPECT_NEAR(LogSumExp(logits), want.logsumexp, kLogitTolerance) << "at " << want.pos;
  if (want.next_id >= 0) {
    const double nll = LogSumExp(logits) - static_cast<double>(logits[static_cast<size_t>(want.next_id)]);
    EXPECT_NEAR(nll, want.next_nll, 2 * kLogitTolerance) << "at " << want.pos;
  }
}

TEST_F(GoldenReferenceTest, LogitsOfEveryStoredPosition) {
  int positions = 0;
  for (const GoldenPrompt& prompt : *prompts_) {
    if (prompt.ids.size() > kLongestPrompt) continue;
    SCOPED_TRACE(prompt.name);
    RunnerDriver driver = Driver();
    RunnerDriver::Sequence sequence;
    const auto stored = [&](int pos) {
      for (const GoldenPosition& p : prompt.positions) {
        if (p.pos == pos) return true;
      }
      return false;
    };
    const auto rows = driver.Feed(&sequence, prompt.ids, 48, stored);
    ASSERT_EQ(rows.size(), prompt.positions.size());
    for (size_t i = 0; i < rows.size(); ++i) ExpectPosition(prompt.positions[i], rows[i]);
    positions += static_cast<int>(rows.size());
  }
  EXPECT_GE(positions, 80);
}

// Real decoding: one token a step, the sampler in the loop.
TEST_F(GoldenReferenceTest, DecodingGivesTheGoldenTokens) {
  const GoldenPrompt& prompt = Prompt("chat-default-system");
  RunnerDriver driver = Driver();
  RunnerDriver::Sequence sequence;
  const int last = static_cast<int>(prompt.ids.size()) - 1;
  driver.Feed(&sequence, prompt.ids, 64, [last](int pos) { return pos == last; });
  for (size_t step = 0; step < 24; ++step) {
    ASSERT_GT(prompt.greedy[step].margin, kGreedyMarginGuard);
    const int32_t token = driver.last_result().outputs.back().token;
    ASSERT_EQ(token, prompt.greedy[step].id) << "step " << step;
    driver.Step({{&sequence, {token}, {0}}});
  }
}

// All 64 steps of every continuation, fed as one more piece of prompt (teacher forcing).
TEST_F(GoldenReferenceTest, GreedyContinuationsWhereTheMarginIsWide) {
  int compared = 0;
  for (const GoldenPrompt& prompt : *prompts_) {
    if (prompt.ids.size() > kLongestContinued || prompt.greedy.empty()) continue;
    SCOPED_TRACE(prompt.name);
    RunnerDriver driver = Driver();
    RunnerDriver::Sequence sequence;
    const size_t last = prompt.ids.size() - 1;
    driver.Feed(&sequence, std::span(prompt.ids).first(last), 64, [](int) { return false; });
    std::vector<int32_t> tokens = {prompt.ids[last]};
    std::vector<int32_t> outputs = {0};
    for (size_t step = 0; step + 1 < prompt.greedy.size(); ++step) {
      tokens.push_back(prompt.greedy[step].id);
      outputs.push_back(static_cast<int32_t>(step) + 1);
    }
    const auto rows = driver.Step({{&sequence, tokens, outputs}});
    for (size_t step = 0; step < prompt.greedy.size(); ++step) {
      const testing::GoldenStep& want = prompt.greedy[step];
      EXPECT_NEAR(rows[step][static_cast<size_t>(want.id)], want.logit, kLogitTolerance) << "step " << step;
      if (want.margin < kGreedyMarginGuard) continue;
      EXPECT_EQ(driver.last_result().outputs[step].token, want.id) << "step " << step;
      ++compared;
    }
  }
  EXPECT_GE(compared, 450);
}

TEST_F(GoldenReferenceTest, CompleteLogitRowsAndTheResidualStream) {
  const GoldenPrompt& prompt = Prompt("five-tokens");
  const std::vector<float> full =
      testing::ReadArray<float>(testing::GoldenPath("full_logits.f32"));  // positions 2 and 4
  const std::vector<float> hidden =
      testing::ReadArray<float>(testing::GoldenPath("hidden_states.f32"));  // [32, 5, 576]
  RunnerDriver driver = Driver();
  RunnerDriver::Sequence sequence;
  const auto rows = driver.Feed(&sequence, prompt.ids, 5, [](int pos) { return pos == 2 || pos == 4; });
  constexpr size_t kVocab = 49152, kHidden = 576;
  ASSERT_EQ(full.size(), 2 * kVocab);
  for (size_t r = 0; r < 2; ++r) {
    for (size_t i = 0; i < kVocab; ++i) {
      ASSERT_NEAR(rows[r][i], full[r * kVocab + i], kLogitTolerance) << "row " << r << " token " << i;
    }
  }
  // After the 30th block, before the final norm.
  const std::span<const float> residual = static_cast<ReferenceRunner*>(runner_)->TEST_residual();
  for (size_t i = 0; i < 5 * kHidden; ++i) {
    const float want = hidden[30 * 5 * kHidden + i];
    ASSERT_NEAR(residual[i], want, 1e-4 * std::max(1.0f, std::fabs(want))) << i;
  }
}

TEST_F(GoldenReferenceTest, ChunkingThePromptChangesNoBit) {
  const GoldenPrompt& prompt = Prompt("plain-33");
  std::vector<std::vector<float>> results;
  for (const int chunk : {1, 7, 33}) {
    RunnerDriver driver = Driver();
    RunnerDriver::Sequence sequence;
    results.push_back(driver.Feed(&sequence, prompt.ids, chunk, [](int pos) { return pos == 32; })[0]);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

// The reference ops, keeping the residual stream after the embedding and after every block.
class RecordingOps : public kernels::ReferenceOps {
 public:
  using ReferenceOps::ReferenceOps;
  kernels::Traffic Embed(const Matrix& table, const kernels::BatchView& batch, float scale, float* x) {
    const kernels::Traffic t = ReferenceOps::Embed(table, batch, scale, x);
    states.emplace_back(x, x + batch.num_rows * table.cols);
    return t;
  }
  kernels::Traffic ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual) {
    const kernels::Traffic t = ReferenceOps::ProjectAdd(w, num_rows, in, residual);
    if (++projections % 2 == 0) states.emplace_back(residual, residual + num_rows * w.rows);
    return t;
  }
  std::vector<std::vector<float>> states;
  int projections = 0;
};

TEST_F(GoldenReferenceTest, TheResidualStreamHoldsAfterEveryBlock) {
  const std::vector<float> want = testing::ReadArray<float>(testing::GoldenPath("hidden_states.f32"));  // [32, 5, 576]
  auto file = model::GgufFile::Open(testing::DefaultModelPath());
  ASSERT_TRUE(file.ok()) << file.status();
  auto owned = std::make_unique<RecordingOps>(UsableCores());
  const RecordingOps* ops = owned.get();
  RunnerOptions options;
  options.k_format = options.v_format = kernels::KvFormat::kF32;
  options.max_model_len = 64;
  options.max_rows = 8;
  options.max_num_seqs = 1;
  options.kv_bytes = uint64_t{16} << 20;
  auto runner = CreateRunner(**file, options, std::move(owned), RunnerInfo{}, [](const RecordingOps*, RunnerInfo*) {});
  ASSERT_TRUE(runner.ok()) << runner.status();
  RunnerDriver driver(runner->get(), [] { return std::span<const float>(); });
  RunnerDriver::Sequence sequence;
  driver.Feed(&sequence, Prompt("five-tokens").ids, 5, [](int) { return false; });
  constexpr size_t kState = 5 * 576;
  ASSERT_EQ(want.size(), 32 * kState);
  ASSERT_EQ(ops->states.size(), 31u) << "the 32nd golden state is after the final norm, which Logits computes";
  for (size_t s = 0; s < ops->states.size(); ++s) {
    ASSERT_EQ(ops->states[s].size(), kState);
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < kState; ++i) {
      const auto w = static_cast<double>(want[s * kState + i]);
      difference += std::pow(static_cast<double>(ops->states[s][i]) - w, 2);
      size += w * w;
    }
    EXPECT_TRUE(difference <= 1e-11 * size) << "state " << s << ": " << difference / size;
  }
}

}  // namespace
}  // namespace dunlin::worker
