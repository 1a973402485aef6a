#include "model/architectures.h"

#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

using M = ModelTensors;
using L = LayerTensors;
constexpr bool kRequired = true;
constexpr bool kOptional = false;

constexpr TensorSpec<M> kModelTensors[] = {
    {&M::token_embd, "token_embd.weight", Dim::kVocab, Dim::kHidden, kRequired},
    {&M::output_norm, "output_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&M::output, "output.weight", Dim::kVocab, Dim::kHidden, kOptional},
    {&M::rope_freqs, "rope_freqs.weight", Dim::kOne, Dim::kHalfRope, kOptional},
};

constexpr TensorSpec<M> kPhi3ModelTensors[] = {
    {&M::token_embd, "token_embd.weight", Dim::kVocab, Dim::kHidden, kRequired},
    {&M::output_norm, "output_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&M::output, "output.weight", Dim::kVocab, Dim::kHidden, kOptional},
    {&M::rope_factors_long, "rope_factors_long.weight", Dim::kOne, Dim::kHalfRope, kOptional},
    {&M::rope_factors_short, "rope_factors_short.weight", Dim::kOne, Dim::kHalfRope, kOptional},
};

constexpr TensorSpec<L> kLlamaLayer[] = {
    {&L::attn_norm, "attn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::q, "attn_q.weight", Dim::kQ, Dim::kHidden, kRequired},
    {&L::k, "attn_k.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::v, "attn_v.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::o, "attn_output.weight", Dim::kHidden, Dim::kQ, kRequired},
    {&L::ffn_norm, "ffn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::gate, "ffn_gate.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::up, "ffn_up.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::down, "ffn_down.weight", Dim::kHidden, Dim::kFfn, kRequired},
};

constexpr TensorSpec<L> kQwen2Layer[] = {
    {&L::attn_norm, "attn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::q, "attn_q.weight", Dim::kQ, Dim::kHidden, kRequired},
    {&L::k, "attn_k.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::v, "attn_v.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::q_bias, "attn_q.bias", Dim::kOne, Dim::kQ, kRequired},
    {&L::k_bias, "attn_k.bias", Dim::kOne, Dim::kKv, kRequired},
    {&L::v_bias, "attn_v.bias", Dim::kOne, Dim::kKv, kRequired},
    {&L::o, "attn_output.weight", Dim::kHidden, Dim::kQ, kRequired},
    {&L::ffn_norm, "ffn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::gate, "ffn_gate.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::up, "ffn_up.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::down, "ffn_down.weight", Dim::kHidden, Dim::kFfn, kRequired},
};

constexpr TensorSpec<L> kQwen3Layer[] = {
    {&L::attn_norm, "attn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::q, "attn_q.weight", Dim::kQ, Dim::kHidden, kRequired},
    {&L::k, "attn_k.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::v, "attn_v.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::q_norm, "attn_q_norm.weight", Dim::kOne, Dim::kHeadDim, kRequired},
    {&L::k_norm, "attn_k_norm.weight", Dim::kOne, Dim::kHeadDim, kRequired},
    {&L::o, "attn_output.weight", Dim::kHidden, Dim::kQ, kRequired},
    {&L::ffn_norm, "ffn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::gate, "ffn_gate.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::up, "ffn_up.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::down, "ffn_down.weight", Dim::kHidden, Dim::kFfn, kRequired},
};

constexpr TensorSpec<L> kPhi3Layer[] = {
    {&L::attn_norm, "attn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::qkv, "attn_qkv.weight", Dim::kQkv, Dim::kHidden, kRequired},
    {&L::o, "attn_output.weight", Dim::kHidden, Dim::kQ, kRequired},
    {&L::ffn_norm, "ffn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::gate_up, "ffn_up.weight", Dim::kTwoFfn, Dim::kHidden, kRequired},
    {&L::down, "ffn_down.weight", Dim::kHidden, Dim::kFfn, kRequired},
};

constexpr TensorSpec<L> kGemma3Layer[] = {
    {&L::attn_norm, "attn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::q, "attn_q.weight", Dim::kQ, Dim::kHidden, kRequired},
    {&L::k, "attn_k.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::v, "attn_v.weight", Dim::kKv, Dim::kHidden, kRequired},
    {&L::q_norm, "attn_q_norm.weight", Dim::kOne, Dim::kHeadDim, kRequired},
    {&L::k_norm, "attn_k_norm.weight", Dim::kOne, Dim::kHeadDim, kRequired},
    {&L::o, "attn_output.weight", Dim::kHidden, Dim::kQ, kRequired},
    {&L::post_attn_norm, "post_attention_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::ffn_norm, "ffn_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
    {&L::gate, "ffn_gate.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::up, "ffn_up.weight", Dim::kFfn, Dim::kHidden, kRequired},
    {&L::down, "ffn_down.weight", Dim::kHidden, Dim::kFfn, kRequired},
    {&L::post_ffn_norm, "post_ffw_norm.weight", Dim::kOne, Dim::kHidden, kRequired},
};

constexpr Architecture kArchitectures[] = {
    {.name = "llama",  // Llama 1 to 3, Mistral, SmolLM2
     .rope_pairing = RopePairing::kAdjacent,
     .activation = Activation::kSilu,
     .embedding_scale = EmbeddingScale::kOne,
     .qkv_bias = false,
     .qk_norm = false,
     .fused_qkv = false,
     .fused_gate_up = false,
     .post_norms = false,
     .model_tensors = kModelTensors,
     .layer_tensors = kLlamaLayer,
     .runnable = true,
     .missing = ""},
    {.name = "qwen2",
     .rope_pairing = RopePairing::kHalves,
     .activation = Activation::kSilu,
     .embedding_scale = EmbeddingScale::kOne,
     .qkv_bias = true,
     .qk_norm = false,
     .fused_qkv = false,
     .fused_gate_up = false,
     .post_norms = false,
     .model_tensors = kModelTensors,
     .layer_tensors = kQwen2Layer,
     .runnable = true,
     .missing = ""},
    {.name = "qwen3",
     .rope_pairing = RopePairing::kHalves,
     .activation = Activation::kSilu,
     .embedding_scale = EmbeddingScale::kOne,
     .qkv_bias = false,
     .qk_norm = true,
     .fused_qkv = false,
     .fused_gate_up = false,
     .post_norms = false,
     .model_tensors = kModelTensors,
     .layer_tensors = kQwen3Layer,
     .runnable = true,
     .missing = ""},
    {.name = "phi3",  // Phi-3, Phi-4, Phi-4-mini
     .rope_pairing = RopePairing::kHalves,
     .activation = Activation::kSilu,
     .embedding_scale = EmbeddingScale::kOne,
     .qkv_bias = false,
     .qk_norm = false,
     .fused_qkv = true,
     .fused_gate_up = true,
     .post_norms = false,
     .model_tensors = kPhi3ModelTensors,
     .layer_tensors = kPhi3Layer,
     .runnable = false,
     .missing = "fused qkv and gate_up matrices, and RoPE on pairs (i, i + d/2)"},
    {.name = "gemma3",
     .rope_pairing = RopePairing::kHalves,
     .activation = Activation::kGeluTanh,
     .embedding_scale = EmbeddingScale::kSqrtHidden,
     .qkv_bias = false,
     .qk_norm = true,
     .fused_qkv = false,
     .fused_gate_up = false,
     .post_norms = true,
     .model_tensors = kModelTensors,
     .layer_tensors = kGemma3Layer,
     .runnable = false,
     .missing = "the GELU gate, norms after attention and FFN, RMSNorm per head on q and k, and sliding layers with "
                "their own RoPE base"},
};

// The rows of a matrix or of a vector (1), and that nothing hides in further dimensions.
absl::Status CheckShape(const GgufTensor& tensor, int64_t rows, int64_t cols) {
  const bool matches =
      tensor.cols() == cols && tensor.rows() == rows && (tensor.dims.size() < 2 || tensor.dims[1] == rows);
  if (matches) return absl::OkStatus();
  std::string dims;
  for (const int64_t d : tensor.dims) absl::StrAppend(&dims, dims.empty() ? "" : ", ", d);
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor.name), " has dims {", dims, "}; {", cols,
                                                 rows == 1 ? "" : absl::StrCat(", ", rows), "} is wanted"));
}

template <typename Tensors>
absl::StatusOr<Tensors> FindAll(const Gguf& gguf, const ModelConfig& config, const std::string& prefix,
                                std::span<const TensorSpec<Tensors>> specs) {
  Tensors out;
  for (const TensorSpec<Tensors>& spec : specs) {
    const std::string name = prefix + spec.name;
    const GgufTensor* tensor = gguf.FindTensor(name);
    if (tensor == nullptr) {
      if (!spec.required) continue;
      return absl::NotFoundError(absl::StrCat("tensor ", Quoted(name), " is missing"));
    }
    RETURN_IF_ERROR(CheckShape(*tensor, DimSize(spec.rows, config), DimSize(spec.cols, config)));
    out.*spec.field = tensor;
  }
  return out;
}

std::string LayerPrefix(int layer) { return absl::StrCat("blk.", layer, "."); }

}  // namespace

std::span<const Architecture> Architectures() { return kArchitectures; }

absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view name) {
  std::string known;
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return &a;
    absl::StrAppend(&known, known.empty() ? "" : ", ", a.name);
  }
  return absl::UnimplementedError(absl::StrCat("architecture ", Quoted(name), " is not known; known are ", known));
}

int64_t DimSize(Dim dim, const ModelConfig& c) {
  const int64_t q = int64_t{c.num_q_heads} * c.head_dim;
  const int64_t kv = int64_t{c.num_kv_heads} * c.head_dim;
  switch (dim) {
    case Dim::kOne:
      return 1;
    case Dim::kHidden:
      return c.hidden_size;
    case Dim::kQ:
      return q;
    case Dim::kKv:
      return kv;
    case Dim::kQkv:
      return q + 2 * kv;
    case Dim::kFfn:
      return c.ffn_size;
    case Dim::kTwoFfn:
      return 2 * int64_t{c.ffn_size};
    case Dim::kVocab:
      return c.vocab_size;
    case Dim::kHeadDim:
      return c.head_dim;
    case Dim::kHalfRope:
      return c.rope_dims / 2;
  }
  CHECK(false) << "dimension " << static_cast<int>(dim);
  return 0;
}

absl::StatusOr<ModelTensors> FindModelTensors(const Gguf& gguf, const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Architecture* row, FindArchitecture(config.architecture));
  return FindAll<ModelTensors>(gguf, config, "", row->model_tensors);
}

absl::StatusOr<LayerTensors> FindLayerTensors(const Gguf& gguf, const ModelConfig& config, int layer) {
  CHECK_GE(layer, 0);
  CHECK_LT(layer, config.num_layers);
  ASSIGN_OR_RETURN(const Architecture* row, FindArchitecture(config.architecture));
  return FindAll<LayerTensors>(gguf, config, LayerPrefix(layer), row->layer_tensors);
}

absl::Status CheckTensors(const Gguf& gguf, const ModelConfig& config) {
  ASSIGN_OR_RETURN(const Architecture* row, FindArchitecture(config.architecture));
  RETURN_IF_ERROR(FindModelTensors(gguf, config).status());
  absl::flat_hash_set<std::string> named;
  for (const auto& spec : row->model_tensors) named.insert(spec.name);
  for (int layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(FindLayerTensors(gguf, config, layer).status());
    for (const auto& spec : row->layer_tensors) named.insert(LayerPrefix(layer) + spec.name);
  }
  for (const GgufTensor& tensor : gguf.tensors()) {
    if (named.contains(tensor.name)) continue;
    return absl::UnimplementedError(absl::StrCat("tensor ", Quoted(tensor.name), " is not one that architecture ",
                                                 row->name, " of this build uses"));
  }
  return absl::OkStatus();
}

}  // namespace dunlin::model
