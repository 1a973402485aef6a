#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/quant_format.h"
#include "model/architectures.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

// Far above any published model, far below what could overflow a product of two of them in 64 bits.
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxContext = int64_t{1} << 30;

// Reads "<architecture>.<key>".
class ArchKeys {
 public:
  ArchKeys(const Gguf& gguf, const Architecture& arch) : gguf_(gguf), prefix_(absl::StrCat(arch.name, ".")) {}

  std::string Name(absl::string_view key) const { return absl::StrCat(prefix_, key); }
  bool Has(absl::string_view key) const { return gguf_.Find(Name(key)) != nullptr; }

  absl::StatusOr<int> Int(absl::string_view key, int64_t min, int64_t max) const {
    ASSIGN_OR_RETURN(const int64_t value, gguf_.GetInt(Name(key), min, max));
    return static_cast<int>(value);
  }
  absl::StatusOr<int> IntOr(absl::string_view key, int64_t fallback, int64_t min, int64_t max) const {
    ASSIGN_OR_RETURN(const int64_t value, gguf_.GetIntOr(Name(key), fallback, min, max));
    return static_cast<int>(value);
  }
  // A finite float with min <= value <= max (NaN fails both).
  absl::StatusOr<double> FloatOr(absl::string_view key, double fallback, double min, double max) const {
    ASSIGN_OR_RETURN(const double value, gguf_.GetFloatOr(Name(key), fallback));
    if (!(value >= min && value <= max)) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF: key '", Name(key), "' is ", value, "; ", min, " to ", max, " is allowed"));
    }
    return value;
  }
  // Refuses a feature that this build lacks: the key must be absent or hold `neutral`.
  absl::Status RequireInt(absl::string_view key, int64_t neutral, absl::string_view feature) const {
    ASSIGN_OR_RETURN(const int64_t value, gguf_.GetIntOr(Name(key), neutral, std::numeric_limits<int64_t>::min(),
                                                         std::numeric_limits<int64_t>::max()));
    if (value == neutral) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat("key '", Name(key), "' is ", value, ": ", feature, " is not supported"));
  }
  absl::Status RequireFloat(absl::string_view key, double neutral, absl::string_view feature) const {
    ASSIGN_OR_RETURN(const double value, gguf_.GetFloatOr(Name(key), neutral));
    if (value == neutral) return absl::OkStatus();
    return absl::UnimplementedError(
        absl::StrCat("key '", Name(key), "' is ", value, ": ", feature, " is not supported"));
  }

 private:
  const Gguf& gguf_;
  const std::string prefix_;
};

absl::StatusOr<const Architecture*> RowOf(const Gguf& gguf) {
  ASSIGN_OR_RETURN(const absl::string_view name, gguf.GetString("general.architecture"));
  return FindArchitecture(name);
}

// Whole files and plain layers only.
absl::Status RefuseUnsupported(const Gguf& gguf, const ArchKeys& keys) {
  ASSIGN_OR_RETURN(const int64_t splits, gguf.GetIntOr("split.count", 1, 0, 65535));
  if (splits > 1) {
    return absl::UnimplementedError(
        absl::StrCat("key 'split.count' is ", splits, ": files in several parts are not supported"));
  }
  ASSIGN_OR_RETURN(const int64_t quantization,
                   gguf.GetIntOr("general.quantization_version", 2, 0, std::numeric_limits<uint32_t>::max()));
  if (quantization != 2) {
    return absl::UnimplementedError(
        absl::StrCat("key 'general.quantization_version' is ", quantization, "; 2 can be read"));
  }
  RETURN_IF_ERROR(keys.RequireInt("expert_count", 0, "a mixture of experts"));
  RETURN_IF_ERROR(keys.RequireFloat("attn_logit_softcapping", 0.0, "soft-capping of attention"));
  RETURN_IF_ERROR(keys.RequireFloat("final_logit_softcapping", 0.0, "soft-capping of logits"));
  RETURN_IF_ERROR(keys.RequireFloat("attention.clamp_kqv", 0.0, "clamping of q, k and v"));
  RETURN_IF_ERROR(keys.RequireFloat("logit_scale", 1.0, "scaling of logits"));
  RETURN_IF_ERROR(keys.RequireFloat("residual_scale", 1.0, "scaling of the residual stream"));
  ASSIGN_OR_RETURN(const bool causal, gguf.GetBoolOr(keys.Name("attention.causal"), true));
  if (!causal) return absl::UnimplementedError(absl::StrCat("key '", keys.Name("attention.causal"), "' is false"));
  return absl::OkStatus();
}

absl::Status ReadHeads(const ArchKeys& keys, ModelConfig* c) {
  ASSIGN_OR_RETURN(c->num_q_heads, keys.Int("attention.head_count", 1, kMaxHeads));
  ASSIGN_OR_RETURN(c->num_kv_heads, keys.IntOr("attention.head_count_kv", c->num_q_heads, 1, c->num_q_heads));
  if (c->num_q_heads % c->num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: key '", keys.Name("attention.head_count"), "' is ",
                                                   c->num_q_heads, ", not a multiple of the ", c->num_kv_heads,
                                                   " KV heads"));
  }
  if (!keys.Has("attention.key_length") && c->hidden_size % c->num_q_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: key '", keys.Name("attention.key_length"),
                                                   "' is missing and ", c->hidden_size, " is not a multiple of the ",
                                                   c->num_q_heads, " heads"));
  }
  ASSIGN_OR_RETURN(c->head_dim, keys.IntOr("attention.key_length", c->hidden_size / c->num_q_heads, 2, kMaxHeadDim));
  // A head size that was derived has not met the limits yet.
  if (c->head_dim < 2 || c->head_dim > kMaxHeadDim || c->head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: a head has ", c->head_dim, " dimensions (key '",
                                                   keys.Name("attention.key_length"), "'); even numbers from 2 to ",
                                                   kMaxHeadDim, " are allowed"));
  }
  ASSIGN_OR_RETURN(const int value_length, keys.IntOr("attention.value_length", c->head_dim, 1, kMaxHeadDim));
  if (value_length != c->head_dim) {
    return absl::UnimplementedError(absl::StrCat("key '", keys.Name("attention.value_length"), "' is ", value_length,
                                                 ", unlike the keys' ", c->head_dim, ": that is not supported"));
  }
  const int64_t kv_values = int64_t{2} * c->num_layers * c->num_kv_heads * c->head_dim;
  if (kv_values > std::numeric_limits<int>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF: ", c->num_layers, " layers of ", c->num_kv_heads, " KV heads of ", c->head_dim, " need ",
                     kv_values, " KV values per token; at most ", std::numeric_limits<int>::max(), " are allowed"));
  }
  return absl::OkStatus();
}

// The rows of token_embd, which the vocabulary and the vocab_size key must agree with where present.
absl::Status ReadVocabSize(const Gguf& gguf, const ArchKeys& keys, ModelConfig* c) {
  const GgufTensor* embedding = gguf.FindTensor("token_embd.weight");
  if (embedding == nullptr) return absl::NotFoundError("tensor 'token_embd.weight' is missing");
  const int64_t rows = embedding->rows();
  if (rows > kMaxWidth) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor 'token_embd.weight' has ", rows, " rows; at most ", kMaxWidth, " are allowed"));
  }
  c->vocab_size = static_cast<int>(rows);
  ASSIGN_OR_RETURN(const int said, keys.IntOr("vocab_size", rows, 1, kMaxWidth));
  if (said != c->vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: key '", keys.Name("vocab_size"), "' is ", said,
                                                   ", but tensor 'token_embd.weight' has ", rows, " rows"));
  }
  const GgufValue* tokens = gguf.Find("tokenizer.ggml.tokens");
  if (tokens != nullptr && static_cast<int64_t>(tokens->array_size()) != rows) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: key 'tokenizer.ggml.tokens' has ", tokens->array_size(),
                                                   " entries, but tensor 'token_embd.weight' has ", rows, " rows"));
  }
  return absl::OkStatus();
}

absl::Status ReadShape(const Gguf& gguf, const ArchKeys& keys, ModelConfig* c) {
  ASSIGN_OR_RETURN(c->num_layers, keys.Int("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(c->hidden_size, keys.Int("embedding_length", 1, kMaxWidth));
  ASSIGN_OR_RETURN(c->ffn_size, keys.Int("feed_forward_length", 1, kMaxWidth));
  ASSIGN_OR_RETURN(c->context_tokens, keys.Int("context_length", 1, kMaxContext));
  RETURN_IF_ERROR(ReadHeads(keys, c));
  RETURN_IF_ERROR(ReadVocabSize(gguf, keys, c));
  RETURN_IF_ERROR(gguf.GetFloat(keys.Name("attention.layer_norm_rms_epsilon")).status());  // there is no usable default
  ASSIGN_OR_RETURN(const double eps, keys.FloatOr("attention.layer_norm_rms_epsilon", 0.0, 1e-30, 1.0));
  c->rms_eps = static_cast<float>(eps);
  ASSIGN_OR_RETURN(const double scale, keys.FloatOr("attention.scale", 0.0, 0.0, 1e6));  // 0 stands for the default
  c->attn_scale = static_cast<float>(scale != 0.0 ? scale : 1.0 / std::sqrt(static_cast<double>(c->head_dim)));
  ASSIGN_OR_RETURN(c->sliding_window, keys.IntOr("attention.sliding_window", 0, 0, std::numeric_limits<int>::max()));
  if (c->sliding_window >= c->context_tokens) c->sliding_window = 0;  // the window never closes
  ASSIGN_OR_RETURN(c->rope_dims, keys.IntOr("rope.dimension_count", c->head_dim, 2, c->head_dim));
  if (c->rope_dims % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: key '", keys.Name("rope.dimension_count"), "' is ",
                                                   c->rope_dims, "; an even number is wanted"));
  }
  return absl::OkStatus();
}

// The factor that positions are divided by: 1 without scaling.
absl::StatusOr<double> RopeScalingFactor(const Gguf& gguf, const ArchKeys& keys) {
  absl::string_view type = "linear";
  const std::string key = keys.Name("rope.scaling.type");
  if (gguf.Find(key) != nullptr) {
    ASSIGN_OR_RETURN(type, gguf.GetString(key));
  }
  if (type != "none" && type != "linear") {
    return absl::UnimplementedError(
        absl::StrCat("key '", key, "' is ", Quoted(type), ": only none and linear are supported"));
  }
  ASSIGN_OR_RETURN(const double old_factor, keys.FloatOr("rope.scale_linear", 0.0, 0.0, 1e9));  // the key's former name
  ASSIGN_OR_RETURN(const double factor, keys.FloatOr("rope.scaling.factor", old_factor, 0.0, 1e9));
  return type == "none" || factor == 0.0 ? 1.0 : factor;
}

// Needs the tensors to have been checked: rope_freqs has rope_dims / 2 values.
absl::Status ReadRope(const Gguf& gguf, const ArchKeys& keys, ModelConfig* c) {
  ASSIGN_OR_RETURN(const double base, keys.FloatOr("rope.freq_base", 10000.0, 1.0, 1e18));
  ASSIGN_OR_RETURN(const double factor, RopeScalingFactor(gguf, keys));
  ASSIGN_OR_RETURN(const double attn_factor, keys.FloatOr("rope.scaling.attn_factor", 1.0, 0.0, 1e6));
  c->rope_attn_factor = static_cast<float>(attn_factor);
  ASSIGN_OR_RETURN(const ModelTensors tensors, FindModelTensors(gguf, *c));
  std::vector<float> divisors(static_cast<size_t>(c->rope_dims / 2), 1.0f);
  if (tensors.rope_freqs != nullptr)
    kernels::DequantizeRow(tensors.rope_freqs->type, tensors.rope_freqs->data, divisors);
  c->rope_inv_freq.clear();
  for (size_t i = 0; i < divisors.size(); ++i) {
    if (!(std::isfinite(divisors[i]) && divisors[i] > 0.0f)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor 'rope_freqs.weight' holds ", divisors[i], " at ", i,
                                                     "; a finite positive number is wanted"));
    }
    const double exponent = -2.0 * static_cast<double>(i) / c->rope_dims;
    const double frequency = std::pow(base, exponent) / factor / static_cast<double>(divisors[i]);
    if (!(std::isfinite(frequency) && frequency > 0.0)) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF: RoPE frequency ", i, " is ", frequency, " (base ", base,
                                                     ", scaling factor ", factor,
                                                     "); a finite positive number is wanted"));
    }
    c->rope_inv_freq.push_back(frequency);
  }
  return absl::OkStatus();
}

std::string LabelByBytes(const Gguf& gguf) {
  std::map<kernels::DType, size_t> bytes;
  for (const GgufTensor& t : gguf.tensors()) bytes[t.type] += t.num_bytes();
  const auto most =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == bytes.end() ? "" : kernels::GetDTypeInfo(most->first).name;
}

// A checkpoint that was never converted has q and k in another order than the row says (hugging_face/hf_config.h).
absl::StatusOr<RopePairing> ReadRopePairing(const Gguf& gguf, const Architecture& row) {
  if (gguf.Find("dunlin.rope_pairing") == nullptr) return row.rope_pairing;
  ASSIGN_OR_RETURN(const absl::string_view said, gguf.GetString("dunlin.rope_pairing"));
  if (said == "halves") return RopePairing::kHalves;
  if (said == "adjacent") return RopePairing::kAdjacent;
  return absl::InvalidArgumentError(
      absl::StrCat("key 'dunlin.rope_pairing' is ", Quoted(said), "; halves or adjacent is wanted"));
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const Gguf& gguf) {
  ASSIGN_OR_RETURN(const Architecture* row, RowOf(gguf));
  const ArchKeys keys(gguf, *row);
  ModelConfig c;
  c.architecture = row->name;
  if (gguf.Find("general.name") != nullptr) {
    ASSIGN_OR_RETURN(const absl::string_view name, gguf.GetString("general.name"));
    c.name = std::string(name);
  }
  c.quantization = LabelByBytes(gguf);
  if (gguf.Find("dunlin.quantization") != nullptr) {
    ASSIGN_OR_RETURN(const absl::string_view said, gguf.GetString("dunlin.quantization"));
    c.quantization = std::string(said);
  }
  ASSIGN_OR_RETURN(c.rope_pairing, ReadRopePairing(gguf, *row));
  c.activation = row->activation;
  c.qkv_bias = row->qkv_bias;
  c.qk_norm = row->qk_norm;
  c.post_norms = row->post_norms;
  c.tied_output = gguf.FindTensor("output.weight") == nullptr;
  RETURN_IF_ERROR(RefuseUnsupported(gguf, keys));
  RETURN_IF_ERROR(ReadShape(gguf, keys, &c));
  if (row->embedding_scale == EmbeddingScale::kSqrtHidden) {
    c.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(c.hidden_size)));
  }
  RETURN_IF_ERROR(CheckTensors(gguf, c));
  RETURN_IF_ERROR(ReadRope(gguf, keys, &c));
  return c;
}

absl::StatusOr<ModelConfig> ParseModelConfig(const Gguf& gguf) {
  ASSIGN_OR_RETURN(const Architecture* row, RowOf(gguf));
  if (!row->runnable) {
    return absl::UnimplementedError(
        absl::StrCat("architecture '", row->name, "' cannot run yet: it needs ", row->missing));
  }
  return ReadModelConfig(gguf);
}

}  // namespace dunlin::model
