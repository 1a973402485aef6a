// The tensors of a Hugging Face checkpoint under GGUF's names: F32, F16 and BF16 as they are, AutoGPTQ's groups of
// arrays (qweight, qzeros, scales, g_idx) as one tensor each of a group-quantised type.
// Thread-safety: pure functions.  Borrows: the tensors' bytes.  Errors: kInvalidArgument / kNotFound naming the tensor;
// kUnimplemented for a dtype, a quantisation and a column order (desc_act) that this build lacks.
// Source: the published checkpoints' names; AutoGPTQ's quantize_config.json.
#ifndef DUNLIN_MODEL_HUGGING_FACE_HF_TENSORS_H_
#define DUNLIN_MODEL_HUGGING_FACE_HF_TENSORS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/group_format.h"
#include "model/gguf/gguf_assembler.h"
#include "model/hugging_face/hf_config.h"
#include "model/hugging_face/json_object.h"
#include "model/safetensors/safetensors.h"

namespace dunlin::model {

// How a checkpoint's linear layers are quantised.
struct GptqConfig {
  int bits = 0;
  int group_size = 0;  // -1: whole rows
  bool desc_act = false;
  bool sym = true;
  bool zero_minus_one = true;  // checkpoint_format "gptq"; "gptq_v2" stores zeros themselves
};

// From config.json's quantization_config or a quantize_config.json; nullopt when both are empty.
absl::StatusOr<std::optional<GptqConfig>> ReadGptqConfig(const JsonObject& config, const JsonObject& quantize_config);

// By GGUF name.
using GroupedTensors = absl::flat_hash_map<std::string, kernels::GroupMatrix>;

// "model.layers.3.self_attn.q_proj.weight" -> "blk.3.attn_q.weight"; names that no row knows come back as they are.
std::string GgufTensorName(absl::string_view name);

// Adds every tensor of `files` to *out and the group-quantised ones to the result.
absl::StatusOr<GroupedTensors> DescribeHfTensors(const std::vector<const SafeTensors*>& files, const HfConfig& config,
                                                 const std::optional<GptqConfig>& gptq, GgufAssembler* out);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_HUGGING_FACE_HF_TENSORS_H_
