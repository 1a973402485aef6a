// Mutated model files: whatever the bytes, the reader either accepts them or says why not, and touches nothing outside.
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/describe.h"
#include "model/gguf/gguf_file.h"
#include "model/model_config.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/gguf_mutation.h"
#include "tests/support/test_data.h"

namespace dunlin::model {
namespace {

using Bytes = std::vector<uint8_t>;
using dunlin::testing::Mutated;

struct Outcome {
  int refused_by_parser = 0;
  int refused_by_config = 0;
  int accepted = 0;
};

// The bytes of the tensors of an accepted file are read, so that the sanitizer sees every view.
void Judge(const Bytes& file, Outcome* outcome) {
  const Bytes exact(file);  // its own allocation, of exactly this size
  const absl::StatusOr<Gguf> gguf = Gguf::Parse(exact);
  if (!gguf.ok()) {
    ASSERT_FALSE(gguf.status().message().empty());
    ++outcome->refused_by_parser;
    return;
  }
  uint64_t sum = 0;
  for (const GgufTensor& t : gguf->tensors()) sum += t.data.empty() ? 0u : t.data.front() + t.data.back();
  ASSERT_LT(sum, uint64_t{1} << 62);
  ASSERT_FALSE(DescribeGguf(*gguf, false).empty());
  const absl::StatusOr<ModelConfig> config = ParseModelConfig(*gguf);
  if (!config.ok()) {
    ASSERT_FALSE(config.status().message().empty());
    ++outcome->refused_by_config;
    return;
  }
  ASSERT_GT(config->kv_values_per_token(), 0);
  ++outcome->accepted;
}

TEST(MutatedModels, TenThousandFilesAreRefusedWithAReasonOrAccepted) {
  // Small, so that many bytes are structure: one layer, and the vocabulary cut to what the format needs.
  dunlin::testing::GgufBuilder builder =
      dunlin::testing::TinyLlamaBuilder({.num_layers = 1, .hidden_size = 32, .ffn_size = 32, .num_q_heads = 2});
  const std::string seed_text = builder.Build();
  const Bytes seed(seed_text.begin(), seed_text.end());
  const absl::StatusOr<Gguf> valid = Gguf::Parse(seed);
  ASSERT_TRUE(valid.ok() && ParseModelConfig(*valid).ok());
  const auto header = static_cast<size_t>(valid->tensors().front().data.data() - seed.data());
  // The keys of the model itself come before those of the vocabulary.
  const size_t model_keys = seed_text.find("tokenizer.ggml.model");
  ASSERT_LT(model_keys, header);
  std::mt19937_64 rng(20240611);
  Outcome outcome;
  for (int i = 0; i < 10000; ++i) {
    ASSERT_NO_FATAL_FAILURE(Judge(Mutated(rng, seed, i % 2 == 0 ? header : model_keys), &outcome)) << "file " << i;
  }
  // All three ends are reached often, or the mutations would test little.
  EXPECT_GT(outcome.refused_by_parser, 2000);
  EXPECT_GT(outcome.refused_by_config, 100);
  EXPECT_GT(outcome.accepted, 500);
  RecordProperty("refused_by_parser", outcome.refused_by_parser);
  RecordProperty("refused_by_config", outcome.refused_by_config);
  RecordProperty("accepted", outcome.accepted);
}

TEST(MutatedModels, HeadersOfTheDefaultModelAreRefusedWithAReason) {
  const std::string path = dunlin::testing::DefaultModelPath();
  if (path.empty()) GTEST_SKIP() << "the default model file is absent";
  // The header is 2.2 MB, most of it vocabulary; without the data behind it no mutant can be complete.
  Bytes seed(size_t{2} << 20);
  std::ifstream in(path, std::ios::binary);
  in.read(reinterpret_cast<char*>(seed.data()), static_cast<std::streamsize>(seed.size()));
  ASSERT_EQ(in.gcount(), static_cast<std::streamsize>(seed.size()));
  std::mt19937_64 rng(7);
  Outcome outcome;
  for (int i = 0; i < 200; ++i) {
    // Alternately at the hyperparameters, which come first, and anywhere.
    ASSERT_NO_FATAL_FAILURE(Judge(Mutated(rng, seed, i % 2 == 0 ? 1500 : seed.size()), &outcome)) << "file " << i;
  }
  EXPECT_EQ(outcome.refused_by_parser, 200);
}

}  // namespace
}  // namespace dunlin::model
