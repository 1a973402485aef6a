// A small checkpoint in memory, for tests: the llama family, one layer, its texts and its weights to be changed at
// will. Thread-safety: plain data.  Owns: everything.  Source: ours.
#ifndef DUNLIN_TESTS_SUPPORT_CHECKPOINT_H_
#define DUNLIN_TESTS_SUPPORT_CHECKPOINT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/hugging_face/hf_folder.h"
#include "model/safetensors/safetensors.h"
#include "tests/support/safetensors_builder.h"

namespace dunlin::testing {

// One linear layer's arrays as AutoGPTQ stores them.
struct GptqArrays {
  std::string qweight, qzeros, scales, g_idx;
};

// Random codes and scales; stored_zero: what every zero's field holds. rows and cols are multiples of 32.
inline GptqArrays RandomGptq(int rows, int cols, int bits, int group_size, int stored_zero, uint64_t seed) {
  std::mt19937_64 rng(seed);
  GptqArrays a;
  const int groups = group_size < 0 ? 1 : (cols + group_size - 1) / group_size;
  for (int i = 0; i < rows * cols * bits / 8; ++i) a.qweight.push_back(static_cast<char>(rng() & 255));
  for (int g = 0; g < groups; ++g) {
    std::string zeros(static_cast<size_t>(rows * bits / 8), '\0');
    for (int bit = 0; bit < rows * bits; ++bit) {
      if (((stored_zero >> (bit % bits)) & 1) != 0) {
        zeros[static_cast<size_t>(bit / 8)] = static_cast<char>(zeros[static_cast<size_t>(bit / 8)] | (1 << (bit % 8)));
      }
    }
    a.qzeros += zeros;
    for (int r = 0; r < rows; ++r) {
      a.scales.push_back(static_cast<char>(rng() & 255));
      a.scales.push_back('\x20');  // about 0.01
    }
  }
  for (int c = 0; c < cols; ++c) {
    const int32_t group = group_size < 0 ? 0 : c / group_size;
    for (int byte = 0; byte < 4; ++byte) a.g_idx.push_back(static_cast<char>(group >> (8 * byte)));
  }
  return a;
}

class Checkpoint {
 public:
  static constexpr int kHidden = 32, kFfn = 64, kVocab = 40;

  Checkpoint() {
    config = {{"model_type", "llama"},  {"hidden_size", kHidden},         {"intermediate_size", kFfn},
              {"num_hidden_layers", 1}, {"num_attention_heads", 2},       {"num_key_value_heads", 2},
              {"vocab_size", kVocab},   {"max_position_embeddings", 128}, {"rms_norm_eps", 1e-5},
              {"rope_theta", 10000.0},  {"tie_word_embeddings", true},    {"hidden_act", "silu"}};
    Float("model.embed_tokens.weight", {kVocab, kHidden});
    Float("model.norm.weight", {kHidden});
    Float("model.layers.0.input_layernorm.weight", {kHidden});
    Float("model.layers.0.post_attention_layernorm.weight", {kHidden});
    for (const Linear& l : kLinears) Float(std::string("model.layers.0.") + l.name + ".weight", {l.rows, l.cols});
  }

  // All linear layers become quantised ones.
  void Quantize(int bits, int group_size, int stored_zero) {
    config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", group_size}};
    for (const Linear& l : kLinears) {
      const std::string stem = std::string("model.layers.0.") + l.name;
      weights.Remove(stem + ".weight");
      const GptqArrays a = RandomGptq(l.rows, l.cols, bits, group_size, stored_zero, 7);
      const int groups = group_size < 0 ? 1 : (l.cols + group_size - 1) / group_size;
      weights.Tensor(stem + ".qweight", "I32", {l.cols * bits / 32, l.rows}, a.qweight);
      weights.Tensor(stem + ".qzeros", "I32", {groups, l.rows * bits / 32}, a.qzeros);
      weights.Tensor(stem + ".scales", "F16", {groups, l.rows}, a.scales);
      weights.Tensor(stem + ".g_idx", "I32", {l.cols}, a.g_idx);
    }
  }

  model::HfTexts Texts() const { return {config.dump(), "", Text(tokenizer), Text(tokenizer_config), chat_template}; }

  // The result's views are into this, which must stay and not be described again.
  absl::StatusOr<model::HfModel> Describe() {
    bytes_ = weights.Build();
    absl::StatusOr<model::SafeTensors> tensors =
        model::SafeTensors::Parse({reinterpret_cast<const uint8_t*>(bytes_.data()), bytes_.size()});
    if (!tensors.ok()) return tensors.status();
    return model::DescribeHfModel(Texts(), {&*tensors}, "tiny");
  }

  nlohmann::json config, tokenizer, tokenizer_config;
  std::string chat_template;
  SafeTensorsBuilder weights;

 private:
  struct Linear {
    const char* name;
    int rows, cols;
  };
  static constexpr Linear kLinears[] = {{"self_attn.q_proj", kHidden, kHidden}, {"self_attn.k_proj", kHidden, kHidden},
                                        {"self_attn.v_proj", kHidden, kHidden}, {"self_attn.o_proj", kHidden, kHidden},
                                        {"mlp.gate_proj", kFfn, kHidden},       {"mlp.up_proj", kFfn, kHidden},
                                        {"mlp.down_proj", kHidden, kFfn}};

  static std::string Text(const nlohmann::json& json) { return json.is_null() ? "" : json.dump(); }
  void Float(const std::string& name, const std::vector<int64_t>& shape) {
    size_t bytes = 2;
    for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
    std::string data;
    while (data.size() < bytes) {
      data.push_back(static_cast<char>(rng_() & 255));
      data.push_back('\x3C');  // BF16 about 0.01
    }
    weights.Tensor(name, "BF16", shape, data);
  }

  std::mt19937_64 rng_{3};
  std::string bytes_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_CHECKPOINT_H_
