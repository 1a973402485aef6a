// Mutated model files all the way: each is refused with a reason, or loads and serves tokens. (That the parser alone
// never touches anything outside the file is tests/model/gguf/gguf_mutation_test.cc.)
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/model_config.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/gguf_mutation.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {
namespace {

constexpr int kFiles = 10000;
constexpr int kPageTokens = 16;

struct Outcome {
  int refused = 0;
  int served = 0;
};

// Decodes a few greedy tokens; the values may be nonsense, the ids must exist.
void Serve(ModelRunner* runner) {
  const std::vector<int32_t> pages = {0, 1};
  std::vector<int32_t> tokens = {1, runner->info().vocab_size - 1};
  StepResult result;
  for (int step = 0; step < 3; ++step) {
    StepBatch batch;
    const auto context = step == 0 ? 0 : static_cast<int32_t>(tokens.size()) - 1;
    for (auto t = static_cast<size_t>(context); t < tokens.size(); ++t) {
      batch.token_ids.push_back(tokens[t]);
      batch.positions.push_back(static_cast<int32_t>(t));
    }
    batch.page_ids = pages;
    batch.sequences.push_back({0, batch.num_rows(), context, batch.page_ids.data()});
    batch.output_rows = {batch.num_rows() - 1};
    batch.sample_params.resize(1);
    batch.sample_params[0].temperature = 0.0f;
    ASSERT_TRUE(runner->Step(batch, &result).ok());
    ASSERT_GE(result.outputs[0].token, 0);
    ASSERT_LT(result.outputs[0].token, runner->info().vocab_size);
    tokens.push_back(result.outputs[0].token);
  }
}

void Judge(const std::vector<uint8_t>& bytes, const std::string& path, Outcome* outcome) {
  const absl::StatusOr<model::Gguf> gguf = model::Gguf::Parse(bytes);
  absl::Status refusal = gguf.ok() ? model::ParseModelConfig(*gguf).status() : gguf.status();
  if (refusal.ok()) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    const auto file = model::GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    RunnerOptions options;
    options.page_tokens = kPageTokens;
    options.max_rows = 8;
    options.max_num_seqs = 1;
    options.threads = 1;
    options.kv_bytes = 64 << 20;
    options.measure_bandwidth = false;
    refusal = model::Tokenizer::Create((*file)->gguf()).status();
    if (refusal.ok()) {
      const auto runner = CreateCpuRunner(**file, options);
      refusal = runner.status();
      if (refusal.ok()) {
        ASSERT_NO_FATAL_FAILURE(Serve(runner->get()));
      }
    }
  }
  ASSERT_TRUE(refusal.ok() || !refusal.message().empty());
  ++(refusal.ok() ? outcome->served : outcome->refused);
}

TEST(MutatedModels, TenThousandFilesAreRefusedWithAReasonOrServed) {
  const std::string seed_text =
      testing::TinyLlamaBuilder(
          {.num_layers = 1, .hidden_size = 32, .ffn_size = 32, .num_q_heads = 2, .context_tokens = 64})
          .Build();
  const std::vector<uint8_t> seed(seed_text.begin(), seed_text.end());
  const size_t model_keys = seed_text.find("tokenizer.ggml.model");
  const std::string path = ::testing::TempDir() + "mutated_" + std::to_string(::getpid()) + ".gguf";
  std::mt19937_64 rng(77);
  Outcome outcome;
  for (int i = 0; i < kFiles; ++i) {
    // Every other file has its damage among the weights and anywhere else, so that many reach the runner.
    const size_t within = i % 2 == 0 ? seed.size() : model_keys;
    ASSERT_NO_FATAL_FAILURE(Judge(testing::Mutated(rng, seed, within), path, &outcome)) << "file " << i;
  }
  std::filesystem::remove(path);
  EXPECT_GT(outcome.refused, 2000);
  EXPECT_GT(outcome.served, 500);
  RecordProperty("refused", outcome.refused);
  RecordProperty("served", outcome.served);
}

}  // namespace
}  // namespace dunlin::worker
