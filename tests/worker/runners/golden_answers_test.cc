// Two questions that the default model answers with wide margins, in f32 and with 8-bit pages alike.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/runner_driver.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {
namespace {

using kernels::KvFormat;
using testing::RunnerDriver;

struct Question {
  const char* text;
  const char* answer;  // what the greedy answer begins with
  bool whole;          // and all of it
};
constexpr Question kQuestions[] = {
    {"What is gravity?", "Gravity is a fundamental concept in physics that describes the curvature of spacetime",
     false},
    {"Name the capital of France.", "The capital of France is Paris.", true},
};

// The model's own chat template around one user message, written out.
std::string Prompt(const char* question) {
  return absl::StrCat(
      "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
      "<|im_start|>user\n",
      question, "<|im_end|>\n<|im_start|>assistant\n");
}

// Decodes greedily until EOS or `max_tokens`.
std::string Answer(ModelRunner* runner, const model::Tokenizer& tokenizer, const char* question, int max_tokens) {
  const std::vector<int32_t> ids = tokenizer.Encode(Prompt(question), {}).value();
  // Logits are not looked at: any memory of the right size will do.
  std::vector<float> no_logits(static_cast<size_t>(runner->info().vocab_size));
  RunnerDriver driver(runner, [&no_logits] { return std::span<const float>(no_logits); });
  RunnerDriver::Sequence sequence;
  model::StreamDecoder decoder(&tokenizer, /*skip_special=*/true);
  std::string text;
  std::vector<int32_t> next = ids;
  for (int i = 0; i < max_tokens; ++i) {
    const std::vector<int32_t> last = {static_cast<int32_t>(next.size()) - 1};
    driver.Step({{&sequence, next, last}});
    next = {driver.last_result().outputs[0].token};
    if (next[0] == tokenizer.eos_id()) break;
    decoder.Append(next[0], &text);
  }
  return text;
}

void ExpectAnswers(ModelRunner* runner, const model::Tokenizer& tokenizer) {
  for (const Question& q : kQuestions) {
    const std::string want = q.answer;
    const std::string got = Answer(runner, tokenizer, q.text, q.whole ? 20 : 24);
    EXPECT_EQ(q.whole ? got : got.substr(0, want.size()), want) << q.text;
  }
}

TEST(GoldenAnswersTest, AreTheSameOnEveryPathAndPageFormat) {
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not in the cache";
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, model::Tokenizer::Create(file->gguf()));
  RunnerOptions options;
  options.max_model_len = 128;
  options.max_rows = 64;
  options.max_num_seqs = 4;
  options.kv_bytes = uint64_t{256} << 20;
  options.measure_bandwidth = false;
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kE4M3, KvFormat::kInt8, KvFormat::kBF16}) {
    SCOPED_TRACE(absl::StrCat("page format ", static_cast<int>(format)));
    options.k_format = options.v_format = format;
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file, options));
    ExpectAnswers(runner.get(), *tokenizer);
  }
  SCOPED_TRACE("reference ops, f32 pages");
  options.k_format = options.v_format = KvFormat::kF32;
  ASSERT_OK_AND_ASSIGN(const auto reference, CreateReferenceRunner(*file, options));
  ExpectAnswers(reference.get(), *tokenizer);
}

}  // namespace
}  // namespace dunlin::worker
