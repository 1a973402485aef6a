// What a checkpoint's config.json, tensors and quantisation become, and what is refused.
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant_format.h"
#include "model/hugging_face/hf_folder.h"
#include "model/model_config.h"
#include "tests/support/checkpoint.h"
#include "tests/support/status_matchers.h"

namespace dunlin::model {
namespace {

using dunlin::testing::Checkpoint;
using dunlin::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kMissing = absl::StatusCode::kNotFound;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr char kQ[] = "model.layers.0.self_attn.q_proj";

// Of the description and of the configuration read from it.
absl::Status Outcome(Checkpoint* c) {
  const absl::StatusOr<HfModel> model = c->Describe();
  if (!model.ok()) return model.status();
  return ParseModelConfig(model->description.gguf).status();
}

TEST(HuggingFaceConfig, BecomesTheModelsShape) {
  Checkpoint c;
  ASSERT_OK_AND_ASSIGN(const HfModel model, c.Describe());
  ASSERT_OK_AND_ASSIGN(const ModelConfig config, ParseModelConfig(model.description.gguf));
  EXPECT_EQ(config.architecture, "llama");
  EXPECT_EQ(config.name, "tiny");
  EXPECT_EQ(config.quantization, "BF16");
  EXPECT_EQ(config.rope_pairing, RopePairing::kHalves);
  EXPECT_EQ(config.num_layers, 1);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.context_tokens, 128);
  EXPECT_TRUE(config.tied_output);
  EXPECT_EQ(config.rms_eps, 1e-5f);
}

TEST(HuggingFaceConfig, TheNestedSpellingMeansTheSame) {
  Checkpoint flat, nested;
  const nlohmann::json scaling = {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 64}};
  flat.config["rope_theta"] = 500000.0;
  flat.config["rope_scaling"] = scaling;
  nested.config.erase("rope_theta");
  nested.config["rope_parameters"] = scaling;
  nested.config["rope_parameters"]["rope_theta"] = 500000.0;
  ASSERT_OK_AND_ASSIGN(const HfModel a, flat.Describe());
  ASSERT_OK_AND_ASSIGN(const HfModel b, nested.Describe());
  ASSERT_OK_AND_ASSIGN(const ModelConfig want, ParseModelConfig(a.description.gguf));
  ASSERT_OK_AND_ASSIGN(const ModelConfig got, ParseModelConfig(b.description.gguf));
  EXPECT_EQ(got.rope_inv_freq, want.rope_inv_freq);
  // The slowest pair is stretched by the factor, the quickest stays.
  EXPECT_EQ(got.rope_inv_freq.front(), 1.0);
  EXPECT_NEAR(got.rope_inv_freq.back(), std::pow(500000.0, -14.0 / 16.0) / 8.0, 1e-12);
}

TEST(HuggingFaceConfig, RefusesByName) {
  struct Case {
    const char* patch;
    absl::StatusCode code;
    const char* why;
  };
  const Case cases[] = {
      {R"({"model_type":"mamba"})", kUnimplemented, "'mamba', which is not known; known are llama"},
      {R"({"model_type":null})", kUnimplemented, "'model_type'"},
      {R"({"hidden_size":null})", kMissing, "'hidden_size' is missing"},
      {R"({"hidden_size":"32"})", kInvalid, "'hidden_size' is not an integer"},
      {R"({"hidden_size":18446744073709551615})", kInvalid, "'hidden_size' is not an integer below 2^63"},
      {R"({"hidden_size":-32})", kInvalid, "llama.embedding_length"},
      {R"({"num_hidden_layers":2})", kMissing, "blk.1.attn_norm.weight"},
      {R"({"vocab_size":41})", kInvalid, "41"},
      {R"({"hidden_act":"gelu"})", kUnimplemented, "'gelu'"},
      {R"({"rope_scaling":{"rope_type":"yarn","factor":2}})", kUnimplemented, "'yarn'"},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":2}})", kMissing, "'low_freq_factor'"},
      {R"({"rope_scaling":7})", kInvalid, "'rope_scaling' is not an object"},
      {R"({"rope_theta":0})", kInvalid, "llama.rope.freq_base"},
      {R"({"partial_rotary_factor":0.5})", kUnimplemented, "'partial_rotary_factor'"},
      {R"({"tie_word_embeddings":false})", kMissing, "'lm_head.weight' is missing"},
      {R"({"model_type":"qwen3"})", kMissing, "'head_dim'"},
      {R"({"model_type":"qwen2","use_sliding_window":true})", kUnimplemented, "'use_sliding_window'"},
  };
  for (const Case& k : cases) {
    Checkpoint c;
    c.config.merge_patch(nlohmann::json::parse(k.patch));
    EXPECT_THAT(Outcome(&c), StatusIs(k.code, HasSubstr(k.why))) << k.patch;
  }
  EXPECT_THAT(DescribeHfModel({"{", "", "", "", ""}, {}, "x"), StatusIs(kInvalid, HasSubstr("config.json")));
}

TEST(HuggingFaceTensors, NamesFollowTheTable) {
  EXPECT_EQ(GgufTensorName("model.layers.12.mlp.down_proj.weight"), "blk.12.ffn_down.weight");
  EXPECT_EQ(GgufTensorName("model.layers.0.self_attn.q_norm.weight"), "blk.0.attn_q_norm.weight");
  EXPECT_EQ(GgufTensorName("lm_head.weight"), "output.weight");
  for (const char* other : {"model.layers.x.mlp.down_proj.weight", "model.layers.1",
                            "model.layers.-1.mlp.up_proj.weight", "visual.patch.weight", "", "."}) {
    EXPECT_EQ(GgufTensorName(other), other);
  }
}

TEST(HuggingFaceTensors, WhatNoRowNamesIsRefusedAndWhatFollowsFromElsewhereIsLeftOut) {
  Checkpoint c;
  c.weights.Tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}, "abcd");
  c.weights.Tensor("lm_head.weight", "BF16", {1}, "ab");  // tied: it is not looked at
  c.weights.Tensor(std::string(kQ) + ".bias", "F16", {2}, std::string(4, '\0'));
  EXPECT_OK(Outcome(&c));
  c.weights.Tensor(std::string(kQ) + ".bias", "F16", {2}, std::string(4, '\1'));
  EXPECT_THAT(Outcome(&c), StatusIs(kUnimplemented, HasSubstr("blk.0.attn_q.bias")));
  c = Checkpoint();
  c.weights.Tensor("adapter.weight", "F32", {1}, "abcd");
  EXPECT_THAT(Outcome(&c), StatusIs(kUnimplemented, HasSubstr("adapter.weight")));
  c = Checkpoint();
  c.weights.Tensor("model.norm.weight", "F64", {32}, std::string(256, 'x'));
  EXPECT_THAT(Outcome(&c), StatusIs(kUnimplemented, AllOf(HasSubstr("model.norm.weight"), HasSubstr("F64"))));
  c.weights.Tensor("model.norm.weight", "F32", {0}, "");
  EXPECT_THAT(Outcome(&c), StatusIs(kInvalid, HasSubstr("shape [0]")));
}

TEST(HuggingFaceGptq, EveryWidthAndGroupBecomesItsType) {
  struct Case {
    int bits, group_size, stored_zero;
    kernels::DType type;
  };
  const Case cases[] = {{2, 32, 1, kernels::DType::kInt2},   {3, 32, 3, kernels::DType::kInt3},
                        {4, 32, 7, kernels::DType::kQ4_0},   {4, -1, 2, kernels::DType::kInt4},
                        {8, 32, 127, kernels::DType::kQ8_0}, {8, -1, 255, kernels::DType::kInt8}};
  for (const Case& k : cases) {
    SCOPED_TRACE(::testing::Message() << k.bits << " bits, group " << k.group_size);
    Checkpoint c;
    c.Quantize(k.bits, k.group_size, k.stored_zero);
    ASSERT_OK_AND_ASSIGN(const HfModel model, c.Describe());
    EXPECT_OK(ParseModelConfig(model.description.gguf).status());
    const GgufTensor* t = model.description.gguf.FindTensor("blk.0.ffn_down.weight");
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->type, k.type);
    EXPECT_EQ(t->dims, (std::vector<int64_t>{Checkpoint::kFfn, Checkpoint::kHidden}));
    const kernels::GroupMatrix& m = model.grouped.at("blk.0.ffn_down.weight");
    EXPECT_EQ(m.zero(5, 0), (k.stored_zero + 1) & ((1 << k.bits) - 1));
  }
}

TEST(HuggingFaceGptq, ZerosThatAreTheirOwnValueAreRecognised) {
  Checkpoint c;
  c.Quantize(4, 32, 8);  // labelled as the first form, but 8 is the middle itself
  ASSERT_OK_AND_ASSIGN(const HfModel model, c.Describe());
  EXPECT_EQ(model.grouped.at("blk.0.attn_q.weight").zero(0, 0), 8);
  Checkpoint asymmetric;
  asymmetric.Quantize(4, 32, 8);
  asymmetric.config["quantization_config"]["sym"] = false;
  ASSERT_OK_AND_ASSIGN(const HfModel other, asymmetric.Describe());
  EXPECT_EQ(other.grouped.at("blk.0.attn_q.weight").zero(0, 0), 9);
  asymmetric.config["quantization_config"]["checkpoint_format"] = "gptq_v2";
  ASSERT_OK_AND_ASSIGN(const HfModel second, asymmetric.Describe());
  EXPECT_EQ(second.grouped.at("blk.0.attn_q.weight").zero(0, 0), 8);
}

TEST(HuggingFaceGptq, RefusesByName) {
  struct Case {
    const char* patch;
    absl::StatusCode code;
    const char* why;
  };
  const Case cases[] = {
      {R"({"bits":5})", kUnimplemented, "'bits' is 5"},
      {R"({"bits":null})", kMissing, "'bits' is missing"},
      {R"({"bits":8})", kInvalid, "qzeros"},
      {R"({"group_size":48})", kUnimplemented, "'group_size' is 48"},
      {R"({"group_size":64})", kInvalid, "qzeros"},
      {R"({"quant_method":"awq"})", kUnimplemented, "'awq'"},
      {R"({"checkpoint_format":"marlin"})", kUnimplemented, "'marlin'"},
  };
  for (const Case& k : cases) {
    Checkpoint c;
    c.Quantize(4, 32, 7);
    c.config["quantization_config"].merge_patch(nlohmann::json::parse(k.patch));
    EXPECT_THAT(Outcome(&c), StatusIs(k.code, HasSubstr(k.why))) << k.patch;
  }
  Checkpoint none;
  none.Quantize(4, 32, 7);
  none.config.erase("quantization_config");
  EXPECT_THAT(Outcome(&none), StatusIs(kInvalid, HasSubstr("no quantization_config")));
}

TEST(HuggingFaceGptq, RefusesArraysThatContradict) {
  const auto outcome = [](const std::string& suffix, const std::string& dtype, const std::vector<int64_t>& shape,
                          const std::string& data) {
    Checkpoint c;
    c.Quantize(4, 32, 7);
    c.weights.Tensor(kQ + suffix, dtype, shape, data);
    return Outcome(&c);
  };
  EXPECT_THAT(outcome(".scales", "F32", {1, 32}, std::string(128, 'x')), StatusIs(kInvalid, HasSubstr("scales")));
  EXPECT_THAT(outcome(".scales", "F16", {2, 32}, std::string(128, 'x')), StatusIs(kInvalid, HasSubstr("[1, 32]")));
  EXPECT_THAT(outcome(".scales", "F16", {1, 32}, std::string(64, '\x7C')), StatusIs(kInvalid, HasSubstr("not finite")));
  EXPECT_THAT(outcome(".qzeros", "I32", {1, 8}, std::string(32, 'x')), StatusIs(kInvalid, HasSubstr("[1, 4]")));
  EXPECT_THAT(outcome(".qweight", "I32", {3, 32}, std::string(384, 'x')), StatusIs(kInvalid, HasSubstr("[3, 32]")));
  EXPECT_THAT(outcome(".qweight", "I32", {0, 32}, ""), StatusIs(kInvalid, HasSubstr("[0, 32]")));
  EXPECT_THAT(outcome(".qweight", "U32", {4, 32}, std::string(512, 'x')), StatusIs(kInvalid, HasSubstr("U32")));
  EXPECT_THAT(outcome(".g_idx", "I32", {2}, std::string(8, '\0')), StatusIs(kInvalid, HasSubstr("g_idx")));
  Checkpoint missing;
  missing.Quantize(4, 32, 7);
  missing.weights.Remove(std::string(kQ) + ".qzeros");
  EXPECT_THAT(Outcome(&missing), StatusIs(kMissing, HasSubstr("q_proj.qzeros")));
}

TEST(HuggingFaceGptq, AnotherOrderOfColumnsIsRefusedAsDescAct) {
  Checkpoint c;
  c.Quantize(4, 32, 7);
  const std::string down = "model.layers.0.mlp.down_proj";
  std::string order(4 * 64, '\0');
  for (size_t i = 0; i < 64; ++i) order[4 * i] = static_cast<char>(i % 2);  // 0, 1, 0, 1, ...
  c.weights.Tensor(down + ".g_idx", "I32", {64}, order);
  EXPECT_THAT(Outcome(&c), StatusIs(kUnimplemented, AllOf(HasSubstr("desc_act"), HasSubstr(down))));
  // Without the order of the columns, desc_act cannot be trusted to have left them; with one group there is no order.
  for (const int group_size : {32, -1}) {
    Checkpoint silent;
    silent.Quantize(4, group_size, 7);
    silent.config["quantization_config"]["desc_act"] = true;
    EXPECT_OK(Outcome(&silent));
    for (const char* l : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      silent.weights.Remove(std::string("model.layers.0.") + l + ".g_idx");
    }
    if (group_size < 0) {
      EXPECT_OK(Outcome(&silent));
    } else {
      EXPECT_THAT(Outcome(&silent), StatusIs(kUnimplemented, HasSubstr("desc_act")));
    }
  }
}

}  // namespace
}  // namespace dunlin::model
