// Speculation on the CPU runner: the engine's answers, greedy and drawn, are the same token for token with and without,
// alone and together, because a row's logits do not depend on the rows beside it.
#include <unistd.h>
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/serve_all.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/engine/engine_core.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {
namespace {

using testing::Answers;

struct Request {
  std::vector<int32_t> prompt;
  float temperature = 0;
  int num_logprobs = -1;
  uint64_t seed = 0;
};

// All at once in an engine of their own. drafts: per step; 0 = no speculation.
Answers Run(ModelRunner* runner, const std::vector<Request>& requests, int max_tokens, int drafts, int num_steps) {
  EngineOptions options;
  options.max_num_seqs = static_cast<int>(requests.size());
  options.num_speculative_tokens = drafts;
  options.drafting = Drafting::kAlways;  // what is drafted must not depend on how fast this machine is
  options.num_scheduler_steps = num_steps;
  std::vector<NewSequence> sequences;
  for (const Request& r : requests) {
    NewSequence s;
    s.prompt = r.prompt;
    s.max_tokens = max_tokens;
    s.sampling.temperature = r.temperature;
    s.sampling.top_p = 0.9f;
    s.sampling.seed = r.seed;
    s.num_logprobs = r.num_logprobs;
    sequences.push_back(std::move(s));
  }
  return testing::ServeAll(runner, options, std::move(sequences));
}

// The requests one by one and plain, against the same together and with drafts.
void ExpectTheSame(ModelRunner* runner, const std::vector<Request>& requests, int max_tokens) {
  Answers plain;
  for (const Request& request : requests) {
    const Answers a = Run(runner, {request}, max_tokens, 0, 1);
    plain.tokens.push_back(a.tokens[0]);
    plain.logprobs.push_back(a.logprobs[0]);
    EXPECT_EQ(a.stats.draft_tokens, 0u);
  }
  for (const int drafts : {1, 3, 7}) {
    for (const int num_steps : {1, 4}) {
      SCOPED_TRACE(absl::StrCat(drafts, " drafts, ", num_steps, " steps per plan"));
      const Answers drafted = Run(runner, requests, max_tokens, drafts, num_steps);
      EXPECT_EQ(drafted.tokens, plain.tokens);
      EXPECT_EQ(drafted.logprobs, plain.logprobs);
      EXPECT_GT(drafted.stats.accepted_draft_tokens, 10u);
      EXPECT_GT(drafted.stats.draft_tokens, drafted.stats.accepted_draft_tokens) << "no draft was ever wrong";
    }
  }
}

TEST(SpeculationTest, ATinyModelSaysTheSame) {
  const std::string path = absl::StrCat(::testing::TempDir(), "speculation_", ::getpid(), ".gguf");
  {
    testing::TinyLlamaOptions tiny;
    tiny.context_tokens = 512;
    std::ofstream(path, std::ios::binary) << testing::BuildTinyLlama(tiny);
  }
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  for (const kernels::KvFormat format : {kernels::KvFormat::kE4M3, kernels::KvFormat::kF32}) {
    SCOPED_TRACE(absl::StrCat("page format ", static_cast<int>(format)));
    RunnerOptions options;
    options.k_format = options.v_format = format;
    options.threads = 2;
    options.kv_bytes = uint64_t{4} << 20;
    options.measure_bandwidth = false;
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file, options));
    std::vector<Request> requests;
    for (int i = 0; i < 4; ++i) {
      Request r;
      // A passage of eleven tokens over and over; whether the model goes on with it is its own affair.
      for (int k = 0; k < 60; ++k) r.prompt.push_back(10 + (k % 11) * (7 + i) % 200);
      r.temperature = i % 2 == 0 ? 0.0f : 0.6f;
      r.num_logprobs = i == 2 ? 0 : -1;
      r.seed = static_cast<uint64_t>(i);
      requests.push_back(r);
    }
    ExpectTheSame(runner.get(), requests, 90);
  }
  ::unlink(path.c_str());
}

struct Question {
  const char* text;
  float temperature;
};
constexpr Question kQuestions[] = {
    {"Complete this code. Write the same for multiply and divide.\n\ndef add(left, right):\n    check_number(left)\n   "
     " "
     "check_number(right)\n    return left + right\n\ndef subtract(left, right):\n    check_number(left)\n    "
     "check_number(right)\n    return left - right\n",
     0.0f},
    {"Copy the following text word for word:\n\nThe harbour was quiet when the old boat came in. Nobody had seen the "
     "boat for eleven years, and nobody had asked for it. The captain of the boat tied it to the northern pier, paid "
     "the harbour master in silver coins, and asked where the market was.",
     0.2f},
    {"What is gravity?", 0.7f}};

TEST(SpeculationTest, TheDefaultModelSaysTheSame) {
  const std::string path = testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model is not in the cache";
  ASSERT_OK_AND_ASSIGN(const auto file, model::GgufFile::Open(path));
  ASSERT_OK_AND_ASSIGN(const auto tokenizer, model::Tokenizer::Create(file->gguf()));
  RunnerOptions options;
  options.max_model_len = 512;
  options.kv_bytes = uint64_t{64} << 20;
  options.measure_bandwidth = false;
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateCpuRunner(*file, options));
  std::vector<Request> requests;
  for (const auto& [question, temperature] : kQuestions) {
    const std::string text = absl::StrCat("<|im_start|>user\n", question, "<|im_end|>\n<|im_start|>assistant\n");
    requests.push_back({tokenizer->Encode(text, {}).value(), temperature, -1, 5});
  }
  ExpectTheSame(runner.get(), requests, 48);
}

}  // namespace
}  // namespace dunlin::worker
