// A Hugging Face config.json in GGUF's keys. Two keys of our own say what a GGUF file cannot: "dunlin.rope_pairing"
// ("halves": q and k are not permuted, unlike a llama GGUF's) and "dunlin.quantization".
// Thread-safety: pure functions.  Errors: kInvalidArgument / kNotFound naming the member; kUnimplemented for a model
// type without a row and a feature that this build lacks.  Source: the published configuration classes (llama, mistral,
// qwen2, qwen3), in the flat spelling (rope_theta, rope_scaling) and the nested one (rope_parameters).
#ifndef DUNLIN_MODEL_HUGGING_FACE_HF_CONFIG_H_
#define DUNLIN_MODEL_HUGGING_FACE_HF_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf/gguf_assembler.h"
#include "model/hugging_face/json_object.h"

namespace dunlin::model {

struct HfConfig {
  std::string architecture;       // of architectures.h
  bool qkv_bias = false;          // q, k and v have biases
  std::optional<bool> tied;       // absent: as the tensors say
  std::vector<float> rope_freqs;  // what rope_freqs.weight would hold; empty: none
};

// Adds the keys of the configuration to *out. name: of the model, for people.
absl::StatusOr<HfConfig> DescribeHfConfig(const JsonObject& config, const std::string& name, GgufAssembler* out);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_HUGGING_FACE_HF_CONFIG_H_
