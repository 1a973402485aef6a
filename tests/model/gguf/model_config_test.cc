// The configuration of small models, and every way to get one wrong.
#include "model/model_config.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant_format.h"
#include "model/architectures.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::BuildTinyLlama;
using dunlin::testing::GgufBuilder;
using dunlin::testing::StatusIs;
using dunlin::testing::TinyLlamaBuilder;
using dunlin::testing::TinyLlamaOptions;
using kernels::DType;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

// The parsed file together with its bytes.
struct Loaded {
  explicit Loaded(std::string b) : bytes(std::move(b)) {
    auto parsed = Gguf::Parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
    EXPECT_OK(parsed);
    if (parsed.ok()) gguf = *std::move(parsed);
  }
  std::string bytes;
  Gguf gguf;
};

absl::StatusOr<ModelConfig> Config(const GgufBuilder& builder) {
  const Loaded file(builder.Build());
  return ParseModelConfig(file.gguf);
}

// A valid tiny model after `spoil`.
absl::StatusOr<ModelConfig> Spoiled(const std::function<void(GgufBuilder&)>& spoil) {
  GgufBuilder builder = TinyLlamaBuilder({});
  spoil(builder);
  return Config(builder);
}
absl::StatusOr<ModelConfig> WithU32(const std::string& key, uint32_t value) {
  return Spoiled([&](GgufBuilder& b) { b.Remove(key).U32(key, value); });
}
absl::StatusOr<ModelConfig> WithF32(const std::string& key, float value) {
  return Spoiled([&](GgufBuilder& b) { b.Remove(key).F32(key, value); });
}
absl::StatusOr<ModelConfig> WithString(const std::string& key, const std::string& value) {
  return Spoiled([&](GgufBuilder& b) { b.Remove(key).String(key, value); });
}

TEST(ModelConfig, ReadsATinyLlama) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, Config(TinyLlamaBuilder({.tied_output = false})));
  EXPECT_EQ(c.architecture, "llama");
  EXPECT_EQ(c.name, "tiny llama 1");
  EXPECT_EQ(c.num_layers, 2);
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_EQ(c.ffn_size, 128);
  EXPECT_EQ(c.num_q_heads, 4);
  EXPECT_EQ(c.num_kv_heads, 2);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.vocab_size, dunlin::testing::kTinyVocabSize);
  EXPECT_EQ(c.context_tokens, 256);
  EXPECT_EQ(c.rms_eps, 1e-5f);
  EXPECT_EQ(c.attn_scale, 0.25f);
  EXPECT_EQ(c.rope_attn_factor, 1.0f);
  EXPECT_EQ(c.kv_values_per_token(), 2 * 2 * 2 * 16);
  EXPECT_FALSE(c.tied_output);
  EXPECT_FALSE(c.qkv_bias || c.qk_norm || c.post_norms);
  ASSERT_EQ(c.rope_inv_freq.size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    const double want = std::exp(-std::log(10000.0) * static_cast<double>(i) / 8);
    EXPECT_NEAR(c.rope_inv_freq[i] / want, 1.0, 1e-14);
  }
}

TEST(ModelConfig, EqualOptionsGiveEqualBytesAndSeedsDiffer) {
  EXPECT_EQ(BuildTinyLlama({.seed = 5}), BuildTinyLlama({.seed = 5}));
  EXPECT_NE(BuildTinyLlama({.seed = 5}), BuildTinyLlama({.seed = 6}));
}

TEST(ModelConfig, NamesTheTypeThatHoldsMostBytes) {
  for (const DType type :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kQ4_0, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0}) {
    ASSERT_OK_AND_ASSIGN(const ModelConfig c, Config(TinyLlamaBuilder({.num_layers = 8, .linear_type = type})));
    EXPECT_EQ(c.quantization, kernels::GetDTypeInfo(type).name);
  }
  ASSERT_OK_AND_ASSIGN(const ModelConfig small, Config(TinyLlamaBuilder({.num_layers = 1, .vocab_size = 4096})));
  EXPECT_EQ(small.quantization, "Q8_0");
}

TEST(ModelConfig, DefaultsFollowTheFormat) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, Spoiled([](GgufBuilder& b) {
                         for (const char* key : {"attention.key_length", "attention.value_length",
                                                 "rope.dimension_count", "rope.freq_base", "vocab_size"}) {
                           b.Remove(absl::StrCat("llama.", key));
                         }
                         b.Remove("general.name").Remove("general.quantization_version");
                       }));
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.rope_dims, 16);
  EXPECT_DOUBLE_EQ(c.rope_inv_freq[4], 0.01);
  EXPECT_EQ(c.name, "");
  ASSERT_OK_AND_ASSIGN(const ModelConfig mha, [] {
    GgufBuilder b = TinyLlamaBuilder({.num_kv_heads = 4});
    b.Remove("llama.attention.head_count_kv");
    return Config(b);
  }());
  EXPECT_EQ(mha.num_kv_heads, 4);
}

TEST(ModelConfig, AHeadMayBeWiderThanItsShareOfTheResidual) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig c, Config(TinyLlamaBuilder({.head_dim = 32})));
  EXPECT_EQ(c.head_dim, 32);
  EXPECT_EQ(c.rope_inv_freq.size(), 16u);
}

TEST(ModelConfig, RopeScalingDividesTheFrequencies) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig plain, Spoiled([](GgufBuilder&) {}));
  const auto expect_divided = [&](const absl::StatusOr<ModelConfig>& c, double factor) {
    ASSERT_OK(c);
    for (size_t i = 0; i < plain.rope_inv_freq.size(); ++i)
      EXPECT_DOUBLE_EQ(c->rope_inv_freq[i], plain.rope_inv_freq[i] / factor);
  };
  expect_divided(Spoiled([](GgufBuilder& b) {
                   b.String("llama.rope.scaling.type", "linear").F32("llama.rope.scaling.factor", 4.0f);
                 }),
                 4.0);
  expect_divided(WithF32("llama.rope.scaling.factor", 4.0f), 4.0);
  expect_divided(WithF32("llama.rope.scale_linear", 2.0f), 2.0);
  expect_divided(Spoiled([](GgufBuilder& b) {
                   b.String("llama.rope.scaling.type", "none").F32("llama.rope.scaling.factor", 4.0f);
                 }),
                 1.0);
  for (const char* type : {"yarn", "longrope", "nonsense"}) {
    EXPECT_THAT(WithString("llama.rope.scaling.type", type),
                StatusIs(kUnimplemented, AllOf(HasSubstr("llama.rope.scaling.type"), HasSubstr(type))));
  }
  ASSERT_OK_AND_ASSIGN(const ModelConfig attn, WithF32("llama.rope.scaling.attn_factor", 1.19f));
  EXPECT_EQ(attn.rope_attn_factor, 1.19f);
}

TEST(ModelConfig, Llama3FactorsDivideEachFrequency) {
  ASSERT_OK_AND_ASSIGN(const ModelConfig plain, Config(TinyLlamaBuilder({})));
  ASSERT_OK_AND_ASSIGN(const ModelConfig scaled, Config(TinyLlamaBuilder({.llama3_rope_freqs = true})));
  for (size_t i = 0; i < 8; ++i)
    EXPECT_DOUBLE_EQ(scaled.rope_inv_freq[i], plain.rope_inv_freq[i] / (1.0 + 7.0 * static_cast<double>(i) / 8.0));
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    std::vector<float> factors(8, 1.0f);
    factors[3] = bad;
    EXPECT_THAT(Spoiled([&](GgufBuilder& b) { b.Tensor("rope_freqs.weight", {8}, DType::kF32, factors); }),
                StatusIs(kInvalid, AllOf(HasSubstr("rope_freqs.weight"), HasSubstr("at 3"))));
  }
}

TEST(ModelConfig, EveryMissingKeyIsNamed) {
  for (const char* suffix : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                             "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    const std::string key = absl::StrCat("llama.", suffix);
    EXPECT_THAT(Spoiled([&](GgufBuilder& b) { b.Remove(key); }), StatusIs(kNotFound, HasSubstr(key)));
  }
  EXPECT_THAT(Spoiled([](GgufBuilder& b) { b.Remove("general.architecture"); }),
              StatusIs(kNotFound, HasSubstr("general.architecture")));
}

TEST(ModelConfig, HostileNumbersAreRefusedByKey) {
  for (const char* suffix :
       {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "rope.dimension_count", "vocab_size"}) {
    const std::string key = absl::StrCat("llama.", suffix);
    EXPECT_THAT(WithU32(key, 0), StatusIs(kInvalid, HasSubstr(key)));
    EXPECT_THAT(WithU32(key, 0xFFFFFFFFu), StatusIs(kInvalid, HasSubstr(key)));
    EXPECT_THAT(Spoiled([&](GgufBuilder& b) { b.Remove(key).U64(key, ~uint64_t{0}); }),
                StatusIs(kInvalid, HasSubstr(key)));
    EXPECT_THAT(WithString(key, "64"), StatusIs(kInvalid, HasSubstr(key)));
  }
  for (const float eps : {NAN, INFINITY, -1e-5f, 0.0f, 2.0f}) {
    EXPECT_THAT(WithF32("llama.attention.layer_norm_rms_epsilon", eps),
                StatusIs(kInvalid, HasSubstr("layer_norm_rms_epsilon")));
  }
  for (const float base : {NAN, INFINITY, 0.0f, -10000.0f}) {
    EXPECT_THAT(WithF32("llama.rope.freq_base", base), StatusIs(kInvalid, HasSubstr("llama.rope.freq_base")));
  }
  EXPECT_THAT(Spoiled([](GgufBuilder& b) { b.F64("llama.rope.scaling.factor", 5e-324); }),
              StatusIs(kInvalid, HasSubstr("RoPE frequency 0 is inf")));
  EXPECT_THAT(WithF32("llama.rope.scaling.factor", NAN), StatusIs(kInvalid, HasSubstr("rope.scaling.factor")));
  EXPECT_THAT(WithF32("llama.attention.scale", -1.0f), StatusIs(kInvalid, HasSubstr("attention.scale")));
}

TEST(ModelConfig, HeadsThatDoNotFitAreRefused) {
  EXPECT_THAT(WithU32("llama.attention.head_count_kv", 3), StatusIs(kInvalid, HasSubstr("3 KV heads")));
  EXPECT_THAT(WithU32("llama.attention.key_length", 15), StatusIs(kInvalid, HasSubstr("15 dimensions")));
  EXPECT_THAT(WithU32("llama.rope.dimension_count", 7),
              StatusIs(kInvalid, HasSubstr("'llama.rope.dimension_count' is 7")));
  EXPECT_THAT(WithU32("llama.rope.dimension_count", 18), StatusIs(kInvalid, HasSubstr("2 to 16")));
  EXPECT_THAT(WithU32("llama.attention.value_length", 8), StatusIs(kUnimplemented, HasSubstr("value_length")));
  EXPECT_THAT(
      Spoiled([](GgufBuilder& b) {
        b.Remove("llama.attention.key_length").Remove("llama.embedding_length").U32("llama.embedding_length", 66);
      }),
      StatusIs(kInvalid, AllOf(HasSubstr("key_length"), HasSubstr("66"))));
  // A product that would overflow an int is found before any tensor is looked at.
  EXPECT_THAT(Spoiled([](GgufBuilder& b) {
                for (const char* key : {"block_count", "attention.head_count", "attention.head_count_kv",
                                        "attention.key_length", "attention.value_length"})
                  b.Remove(absl::StrCat("llama.", key));
                b.U32("llama.block_count", 4096).U32("llama.attention.head_count", 65536);
                b.U32("llama.attention.head_count_kv", 65536).U32("llama.attention.key_length", 4096);
              }),
              StatusIs(kInvalid, HasSubstr("KV values per token")));
}

TEST(ModelConfig, FeaturesThatWouldChangeTheAnswerAreRefusedNotIgnored) {
  EXPECT_THAT(WithU32("llama.expert_count", 8), StatusIs(kUnimplemented, HasSubstr("experts")));
  EXPECT_OK(WithU32("llama.expert_count", 0));
  EXPECT_THAT(WithF32("llama.attn_logit_softcapping", 50.0f),
              StatusIs(kUnimplemented, HasSubstr("attn_logit_softcapping")));
  EXPECT_THAT(WithF32("llama.final_logit_softcapping", 30.0f),
              StatusIs(kUnimplemented, HasSubstr("final_logit_softcapping")));
  EXPECT_THAT(WithU32("split.count", 3), StatusIs(kUnimplemented, HasSubstr("split.count")));
  EXPECT_THAT(WithU32("general.quantization_version", 1), StatusIs(kUnimplemented, HasSubstr("quantization_version")));
  EXPECT_THAT(Spoiled([](GgufBuilder& b) { b.Bool("llama.attention.causal", false); }),
              StatusIs(kUnimplemented, HasSubstr("causal")));
  EXPECT_THAT(Spoiled([](GgufBuilder& b) { b.Tensor("blk.0.attn_q.bias", {64}, DType::kF32, std::vector<float>(64)); }),
              StatusIs(kUnimplemented, HasSubstr("'blk.0.attn_q.bias'")));
}

TEST(ModelConfig, TheSlidingWindowCountsOnlyWhenItCloses) {
  EXPECT_EQ(WithU32("llama.attention.sliding_window", 100)->sliding_window, 100);
  EXPECT_EQ(WithU32("llama.attention.sliding_window", 256)->sliding_window, 0);
}

TEST(ModelConfig, EveryMissingTensorIsNamed) {
  const Loaded file(BuildTinyLlama({}));
  for (const GgufTensor& t : file.gguf.tensors()) {
    EXPECT_THAT(Spoiled([&](GgufBuilder& b) { b.Remove(t.name); }),
                StatusIs(kNotFound, HasSubstr(absl::StrCat("'", t.name, "'"))));
  }
}

TEST(ModelConfig, EveryTensorOfAWrongShapeIsNamed) {
  const Loaded file(BuildTinyLlama({.tied_output = false, .llama3_rope_freqs = true}));
  for (const GgufTensor& t : file.gguf.tensors()) {
    std::vector<std::vector<int64_t>> wrong;
    auto dims = t.dims;
    dims.back() += 32;
    wrong.push_back(dims);
    if (t.dims.size() == 2) wrong.push_back({t.dims[0], 1, t.dims[1]});
    wrong.push_back({t.num_elements() * 32});
    for (const auto& bad : wrong) {
      GgufBuilder b = TinyLlamaBuilder({.tied_output = false, .llama3_rope_freqs = true});
      int64_t elements = 1;
      for (const int64_t d : bad) elements *= d;
      b.Remove(t.name).Tensor(t.name, bad, DType::kF32, std::vector<float>(static_cast<size_t>(elements), 1.0f));
      EXPECT_THAT(Config(b), StatusIs(kInvalid, HasSubstr(t.name)));
    }
  }
}

TEST(ModelConfig, TheVocabularyMustMatchTheEmbedding) {
  EXPECT_THAT(WithU32("llama.vocab_size", 265), StatusIs(kInvalid, HasSubstr("llama.vocab_size")));
  EXPECT_THAT(
      Spoiled([](GgufBuilder& b) { b.Remove("tokenizer.ggml.tokens").Strings("tokenizer.ggml.tokens", {"a"}); }),
      StatusIs(kInvalid, AllOf(HasSubstr("tokenizer.ggml.tokens"), HasSubstr("264"))));
}

// A one-layer model of any row of the table, with every tensor that the row names.
GgufBuilder ModelOfRow(const Architecture& row) {
  ModelConfig c;
  c.hidden_size = 32;
  c.ffn_size = 48;
  c.num_q_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.rope_dims = 16;
  c.vocab_size = 40;
  GgufBuilder b;
  b.String("general.architecture", row.name);
  const auto key = [&](const char* k) { return absl::StrCat(row.name, ".", k); };
  b.U32(key("block_count"), 1)
      .U32(key("context_length"), 128)
      .U32(key("embedding_length"), 32)
      .U32(key("feed_forward_length"), 48);
  b.U32(key("attention.head_count"), 4).U32(key("attention.head_count_kv"), 2).U32(key("attention.key_length"), 16);
  b.U32(key("attention.value_length"), 16).F32(key("attention.layer_norm_rms_epsilon"), 1e-6f);
  const auto add = [&](const std::string& name, Dim rows, Dim cols) {
    const int64_t r = DimSize(rows, c);
    const int64_t n = DimSize(cols, c);
    const std::vector<int64_t> dims = rows == Dim::kOne ? std::vector<int64_t>{n} : std::vector<int64_t>{n, r};
    b.Tensor(name, dims, DType::kF32, std::vector<float>(static_cast<size_t>(r * n), 1.0f));
  };
  for (const auto& spec : row.model_tensors) add(spec.name, spec.rows, spec.cols);
  for (const auto& spec : row.layer_tensors) add(absl::StrCat("blk.0.", spec.name), spec.rows, spec.cols);
  return b;
}

TEST(Architectures, EveryRowReadsItsOwnModelAndFindsAllItsTensors) {
  for (const Architecture& row : Architectures()) {
    SCOPED_TRACE(row.name);
    const Loaded file(ModelOfRow(row).Build());
    ASSERT_OK_AND_ASSIGN(const ModelConfig c, ReadModelConfig(file.gguf));
    EXPECT_EQ(c.rope_pairing, row.rope_pairing);
    EXPECT_EQ(c.qkv_bias, row.qkv_bias);
    EXPECT_EQ(c.qk_norm, row.qk_norm);
    EXPECT_EQ(c.post_norms, row.post_norms);
    ASSERT_OK_AND_ASSIGN(const LayerTensors l, FindLayerTensors(file.gguf, c, 0));
    for (const auto& spec : row.layer_tensors) EXPECT_NE(l.*spec.field, nullptr) << spec.name;
    // The flags and the tensor list of a row tell the same story.
    EXPECT_EQ(l.q_bias != nullptr && l.k_bias != nullptr && l.v_bias != nullptr, row.qkv_bias);
    EXPECT_EQ(l.q_norm != nullptr && l.k_norm != nullptr, row.qk_norm);
    EXPECT_EQ(l.qkv != nullptr, row.fused_qkv);
    EXPECT_EQ(l.q == nullptr, row.fused_qkv);
    EXPECT_EQ(l.gate_up != nullptr, row.fused_gate_up);
    EXPECT_EQ(l.gate == nullptr, row.fused_gate_up);
    EXPECT_EQ(l.post_attn_norm != nullptr && l.post_ffn_norm != nullptr, row.post_norms);
    const absl::StatusOr<ModelConfig> runnable = ParseModelConfig(file.gguf);
    if (row.runnable) {
      EXPECT_OK(runnable);
    } else {
      EXPECT_THAT(runnable, StatusIs(kUnimplemented, AllOf(HasSubstr(row.name), HasSubstr(row.missing))));
    }
  }
}

TEST(Architectures, LlamaRunsAndUnknownOnesAreRefusedWithTheKnown) {
  EXPECT_TRUE((*FindArchitecture("llama"))->runnable);
  EXPECT_THAT(WithString("general.architecture", "mamba"),
              StatusIs(kUnimplemented, AllOf(HasSubstr("'mamba'"), HasSubstr("llama, qwen2"))));
}

TEST(Architectures, GemmaScalesItsEmbeddings) {
  for (const Architecture& row : Architectures()) {
    const Loaded file(ModelOfRow(row).Build());
    const float want = std::string(row.name) == "gemma3" ? std::sqrt(32.0f) : 1.0f;
    EXPECT_EQ(ReadModelConfig(file.gguf)->embedding_scale, want) << row.name;
  }
}

TEST(GgufBuilderEncoders, ErrorsStayWithinHalfAStep) {
  const Loaded file(BuildTinyLlama({.linear_type = DType::kF32}));
  const GgufTensor* t = file.gguf.FindTensor("blk.0.ffn_up.weight");
  std::vector<float> x(static_cast<size_t>(t->num_elements()));
  kernels::DequantizeRow(DType::kF32, t->data, x);
  // Steps relative to the largest magnitude of a block: 2/15 and 2/31 of it for codes over [min, max], 1/8 and 1/16
  // (and a whole step at the far end, where the top code is clamped) for symmetric ones.
  const std::pair<DType, float> cases[] = {{DType::kF16, 1e-3f},   {DType::kBF16, 8e-3f},  {DType::kQ8_0, 0.0045f},
                                           {DType::kQ4_0, 0.126f}, {DType::kQ4_1, 0.068f}, {DType::kQ5_0, 0.063f},
                                           {DType::kQ5_1, 0.034f}};
  for (const auto& [type, tolerance] : cases) {
    const std::string bytes = dunlin::testing::EncodeRow(type, x);
    std::vector<float> y(x.size());
    kernels::DequantizeRow(type, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, y);
    for (size_t i = 0; i < x.size(); ++i) {
      float largest = 0.0f;
      for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) largest = std::max(largest, std::fabs(x[j]));
      ASSERT_TRUE(std::fabs(x[i] - y[i]) <= tolerance * largest) << kernels::GetDTypeInfo(type).name << " " << i;
    }
  }
}

}  // namespace
}  // namespace dunlin::model
