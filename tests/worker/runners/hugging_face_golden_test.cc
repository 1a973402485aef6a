// Checkpoint folders (config.json + safetensors) against logits that another implementation computed: tiny random
// models of every family in bf16, and one whose layers are quantised by AutoGPTQ's format.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/quant_format.h"
#include "kernels/reference/reference_ops.h"
#include "model/hugging_face/open_model.h"
#include "model/model_config.h"
#include "tests/support/f32_runner.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {
namespace {

using testing::RunnerDriver;
using Json = nlohmann::json;

RunnerOptions Options() {
  RunnerOptions options;
  options.k_format = options.v_format = kernels::KvFormat::kF32;
  options.max_rows = 64;
  options.max_num_seqs = 1;
  options.kv_bytes = uint64_t{8} << 20;
  options.measure_bandwidth = false;
  return options;
}

// What the other implementation says of a folder.
struct Expected {
  explicit Expected(const std::string& folder)
      : json(Json::parse(testing::ReadFile(testing::GoldenPath(folder + "/expected.json")))),
        prompt(json.at("prompt_ids").get<std::vector<int32_t>>()),
        logits(testing::ReadArray<float>(testing::GoldenPath(folder + "/expected_logits.f32"))) {}
  size_t vocab() const { return logits.size() / prompt.size(); }
  Json json;
  std::vector<int32_t> prompt;
  std::vector<float> logits;
};

// Feeds the prompt (some rows at once, then the rest behind a context), then the expected greedy tokens, whose choice
// must agree where the margin is above `margin`. Returns the prompt's logits.
std::vector<float> Drive(RunnerDriver driver, const Expected& expected, double margin) {
  RunnerDriver::Sequence sequence;
  std::vector<float> logits;
  for (const std::vector<float>& row : driver.Feed(&sequence, expected.prompt, 23, [](int) { return true; })) {
    logits.insert(logits.end(), row.begin(), row.end());
  }
  int compared = 0;
  for (const Json& step : expected.json.at("greedy_steps")) {
    const auto id = step.at(0).get<int32_t>();
    if (step.at(3).get<double>() > margin) {
      EXPECT_EQ(driver.last_result().outputs.back().token, id);
      ++compared;
    }
    driver.Step({{&sequence, {id}, {0}}});
  }
  EXPECT_GT(compared, 0) << "no step has that margin";
  return logits;
}

void ExpectNear(const std::vector<float>& got, const Expected& expected, float tolerance) {
  ASSERT_EQ(got.size(), expected.logits.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected.logits[i], tolerance) << i / expected.vocab() << ' ' << i % expected.vocab();
  }
}

double Nmse(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0.0, sum = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - double{want[i]}, 2);
    sum += double{want[i]} * double{want[i]};
  }
  return error / sum;
}

constexpr float kF32Tolerance = 1e-4f;
constexpr double kF32Margin = 2e-4;

class HuggingFaceGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(HuggingFaceGoldenTest, LogitsAndGreedyTokensAreThoseOfTheOtherImplementation) {
  const std::string folder = GetParam();
  ASSERT_OK_AND_ASSIGN(const auto file, model::OpenModel(testing::GoldenPath(folder)));
  const Expected expected(folder);
  {
    SCOPED_TRACE("reference");
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateReferenceRunner(*file, Options()));
    ExpectNear(Drive(testing::MakeDriver<kernels::ReferenceOps>(runner.get()), expected, kF32Margin), expected,
               kF32Tolerance);
  }
  SCOPED_TRACE("cpu, weights widened to f32");
  ASSERT_OK_AND_ASSIGN(const auto runner, testing::CreateF32Runner(*file, Options()));
  ExpectNear(Drive(testing::MakeDriver<testing::F32Ops>(runner.get()), expected, kF32Margin), expected, kF32Tolerance);
}

// Weights stay what the folder holds; bf16 ones meet f32 activations, so nothing else rounds.
TEST_P(HuggingFaceGoldenTest, TheCpuBackendAgrees) {
  const std::string folder = GetParam();
  ASSERT_OK_AND_ASSIGN(const auto file, model::OpenModel(testing::GoldenPath(folder)));
  const Expected expected(folder);
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file, Options()));
  const bool quantized = folder == "gptq_tiny";
  // Int8 activations: the bounds that tests/golden/README.md gives for them, of the greedy margin and the whole.
  const std::vector<float> logits =
      Drive(testing::MakeDriver<kernels::cpu::CpuOps>(runner.get()), expected, quantized ? 0.5 : kF32Margin);
  if (!quantized) return ExpectNear(logits, expected, kF32Tolerance);
  ASSERT_EQ(logits.size(), expected.logits.size());
  const double nmse = Nmse(logits, expected.logits);
  EXPECT_TRUE(nmse <= 1.5e-3) << nmse;
}

INSTANTIATE_TEST_SUITE_P(Folders, HuggingFaceGoldenTest,
                         ::testing::Values("tiny_models/llama", "tiny_models/llama-rope3", "tiny_models/mistral",
                                           "tiny_models/qwen2", "tiny_models/qwen3", "gptq_tiny"),
                         [](const ::testing::TestParamInfo<const char*>& i) {
                           std::string name = i.param;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
                           return name;
                         });

TEST(GptqGoldenTest, AMatrixIsWhatAnotherImplementationDequantises) {
  ASSERT_OK_AND_ASSIGN(const auto file, model::OpenModel(testing::GoldenPath("gptq_tiny")));
  const std::vector<float> want =
      testing::ReadArray<float>(testing::GoldenPath("gptq_tiny/dequant_layer0_down_rows0_7.f32"));
  const model::GgufTensor* t = file->gguf().FindTensor("blk.0.ffn_down.weight");
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(t->dims, (std::vector<int64_t>{512, 256}));
  std::vector<uint8_t> scratch;
  const std::span<const uint8_t> blocks = file->Read(*t, &scratch);
  std::vector<float> got(want.size());
  kernels::DequantizeRow(t->type, blocks.first(kernels::RowBytes(t->type, static_cast<int64_t>(want.size()))), got);
  EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0);
  ASSERT_OK_AND_ASSIGN(const model::ModelConfig config, model::ParseModelConfig(file->gguf()));
  EXPECT_EQ(config.quantization, "GPTQ 4-bit, groups of 128");
}

}  // namespace
}  // namespace dunlin::worker
