// The network in plain ops against the golden logits of the default model: same weights, float32 pages.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "tests/support/test_data.h"
#include "tests/worker/runners/golden_prompts.h"
#include "tests/worker/runners/runner_harness.h"
#include "worker/runners/create_runner.h"

namespace dunlin::testing {
namespace {

using kernels::ReferenceOps;
using worker::ModelRunner;

// With exact angles; tests/golden/README.md.
constexpr double kLogitTolerance = 3e-4;
constexpr int kMaxPromptTokens = 264;

double LogSumExp(std::span<const float> logits) {
  const double max = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0.0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l) - max);
  return max + std::log(sum);
}

// Within tolerance; false for NaN.
::testing::AssertionResult Near(double got, double want, double tolerance, const std::string& what) {
  if (std::fabs(got - want) <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << what << ": " << got << ", golden " << want;
}

class GoldenReference : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    file_ = OpenDefaultModel().release();
    if (file_ == nullptr) return;
    prompts_ = new std::vector<GoldenPrompt>(ReadGoldenPrompts());
    worker::RunnerOptions options = SmallOptions(1024, 4);
    options.max_rows = 1024;
    runner_ = CreateReferenceRunner(*file_, options).value().release();
  }
  static void TearDownTestSuite() {
    delete runner_;
    delete prompts_;
    delete file_;
  }
  void SetUp() override {
    if (file_ == nullptr) GTEST_SKIP() << kNoDefaultModel;
  }

  static model::GgufFile* file_;
  static std::vector<GoldenPrompt>* prompts_;
  static ModelRunner* runner_;
};
model::GgufFile* GoldenReference::file_ = nullptr;
std::vector<GoldenPrompt>* GoldenReference::prompts_ = nullptr;
ModelRunner* GoldenReference::runner_ = nullptr;

void ExpectPosition(const GoldenPosition& want, std::span<const float> logits, double tolerance, const std::string& at) {
  EXPECT_TRUE(Near(LogSumExp(logits), want.logsumexp, tolerance, at + " logsumexp"));
  for (const auto& [id, logit] : want.top) {
    EXPECT_TRUE(Near(static_cast<double>(logits[static_cast<size_t>(id)]), logit, tolerance,
                     at + " logit of " + std::to_string(id)));
  }
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  if (want.top[0].second - want.top[1].second > 2 * tolerance) {
    EXPECT_EQ(best, want.top[0].first) << at;
  }
}

// Prompt and continuation in one prefill (teacher forcing): every stored position, then every greedy step.
TEST_F(GoldenReference, EveryStoredPositionAndGreedyStepHolds) {
  int steps = 0;
  for (const GoldenPrompt& prompt : *prompts_) {
    const auto n = static_cast<int32_t>(prompt.ids.size());
    if (n > kMaxPromptTokens) continue;
    TestPages pages(runner_->info());
    TestBatch batch(runner_, &pages);
    TestSequence sequence;
    std::vector<int32_t> at;
    for (const GoldenPosition& p : prompt.positions) {
      if (p.pos + 1 < n) at.push_back(p.pos);
    }
    batch.AddAt(&sequence, std::span(prompt.ids).first(static_cast<size_t>(n - 1)), at);
    if (n > 1) {
      batch.Run();
      for (size_t i = 0; i < at.size(); ++i) {
        ExpectPosition(prompt.positions[i], LogitsRow<ReferenceOps>(*runner_, i), kLogitTolerance,
                       prompt.name + " position " + std::to_string(at[i]));
      }
    }
    TestBatch continuation(runner_, &pages);
    std::vector<int32_t> tokens = {prompt.ids.back()};
    for (size_t i = 0; i + 1 < prompt.greedy.size(); ++i) tokens.push_back(prompt.greedy[i].id);
    continuation.Add(&sequence, tokens, Outputs::kAll);
    const worker::StepResult& result = continuation.Run();
    ExpectPosition(prompt.positions.back(), LogitsRow<ReferenceOps>(*runner_, 0), kLogitTolerance,
                   prompt.name + " last position");
    for (size_t i = 0; i < prompt.greedy.size(); ++i) {
      const GoldenStep& step = prompt.greedy[i];
      const std::string what = prompt.name + " step " + std::to_string(i);
      const auto id = static_cast<size_t>(step.id);
      EXPECT_TRUE(Near(static_cast<double>(LogitsRow<ReferenceOps>(*runner_, i)[id]), step.logit, kLogitTolerance, what));
      if (step.margin > 2 * kLogitTolerance) {
        EXPECT_EQ(result.outputs[i].token, step.id) << what;
        ++steps;
      }
    }
  }
  EXPECT_GE(steps, 600) << "too few steps were compared";
}

TEST_F(GoldenReference, FullLogitRowsHoldAtEveryToken) {
  const std::vector<float> want = ReadArray<float>(GoldenPath("full_logits.f32"));
  const GoldenPrompt& prompt = FindPrompt(*prompts_, "five-tokens");
  TestPages pages(runner_->info());
  TestBatch batch(runner_, &pages);
  TestSequence sequence;
  const std::vector<int32_t> at = {2, 4};
  batch.AddAt(&sequence, prompt.ids, at);
  batch.Run();
  const auto vocab = static_cast<size_t>(runner_->info().vocab_size);
  ASSERT_EQ(want.size(), 2 * vocab);
  for (size_t row = 0; row < 2; ++row) {
    const std::span<const float> logits = LogitsRow<ReferenceOps>(*runner_, row);
    for (size_t i = 0; i < vocab; ++i) {
      ASSERT_TRUE(Near(static_cast<double>(logits[i]), static_cast<double>(want[row * vocab + i]), kLogitTolerance,
                       "token " + std::to_string(i)));
    }
  }
}

// The reference ops, keeping the residual stream after the embedding and after every block.
class RecordingOps : public ReferenceOps {
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
static_assert(kernels::TransformerOps<RecordingOps>);

TEST_F(GoldenReference, HiddenStatesHoldAfterEveryBlock) {
  const std::vector<float> want = ReadArray<float>(GoldenPath("hidden_states.f32"));
  const GoldenPrompt& prompt = FindPrompt(*prompts_, "five-tokens");
  auto owned = std::make_unique<RecordingOps>(2);
  RecordingOps* ops = owned.get();
  const std::unique_ptr<ModelRunner> runner =
      worker::CreateRunner(*file_, SmallOptions(64, 1), std::move(owned), worker::RunnerInfo{},
                           [](const RecordingOps&) { return uint64_t{1}; })
          .value();
  TestPages pages(runner->info());
  TestBatch batch(runner.get(), &pages);
  TestSequence sequence;
  batch.Add(&sequence, prompt.ids, Outputs::kNone);
  batch.Run();
  const size_t state_size = 5 * 576;
  ASSERT_EQ(want.size(), 32 * state_size);
  ASSERT_EQ(ops->states.size(), 31u);  // the 32nd golden state is after the final norm, which is part of Logits
  for (size_t s = 0; s < ops->states.size(); ++s) {
    ASSERT_EQ(ops->states[s].size(), state_size);
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < state_size; ++i) {
      const double w = static_cast<double>(want[s * state_size + i]);
      difference += std::pow(static_cast<double>(ops->states[s][i]) - w, 2);
      size += w * w;
    }
    EXPECT_TRUE(difference <= 1e-11 * size) << "state " << s << ": " << difference / size;
  }
}

// Real decoding, one token a step, the sampler in the loop.
TEST_F(GoldenReference, DecodingGreedilyGivesTheGoldenAnswer) {
  const GoldenPrompt& prompt = FindPrompt(*prompts_, "chat-default-system");
  TestPages pages(runner_->info());
  TestBatch batch(runner_, &pages);
  TestSequence sequence;
  batch.Add(&sequence, prompt.ids, Outputs::kLast);
  int32_t token = batch.Run().outputs[0].token;
  for (size_t i = 0; i < 24; ++i) {
    ASSERT_GT(prompt.greedy[i].margin, 2 * kLogitTolerance);
    ASSERT_EQ(token, prompt.greedy[i].id) << "step " << i;
    batch.Add(&sequence, std::span(&token, 1), Outputs::kLast);
    token = batch.Run().outputs[0].token;
  }
}

// FP8 pages flip codes on the last bit of a float, so only the shortest prompts are comparable.
TEST_F(GoldenReference, ShortPromptsHoldWithFp8Pages) {
  worker::RunnerOptions options = SmallOptions(64, 1);
  options.k_format = options.v_format = kernels::KvFormat::kE4M3;
  const std::unique_ptr<ModelRunner> runner = CreateReferenceRunner(*file_, options).value();
  for (const char* name : {"one-token", "five-tokens"}) {
    const GoldenPrompt& prompt = FindPrompt(*prompts_, name);
    TestPages pages(runner->info());
    TestBatch batch(runner.get(), &pages);
    TestSequence sequence;
    batch.Add(&sequence, prompt.ids, Outputs::kLast);
    batch.Run();
    ExpectPosition(prompt.fp8_last, LogitsRow<ReferenceOps>(*runner, 0), 0.05, name);
  }
}

}  // namespace
}  // namespace dunlin::testing
