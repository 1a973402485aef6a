#include "model/hugging_face/hf_config.h"

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

enum class Window { kNone, kSlides, kRefused };

// One row per model type; a new one of a known architecture is a row here.
struct Family {
  const char* model_type;
  const char* architecture;
  bool qkv_bias;
  bool needs_head_dim;  // its default is no function of the other sizes
  Window window;        // what sliding_window means
};
constexpr Family kFamilies[] = {
    {"llama", "llama", false, false, Window::kNone},
    {"mistral", "llama", false, false, Window::kSlides},
    {"qwen2", "qwen2", true, false, Window::kRefused},
    {"qwen3", "qwen3", false, true, Window::kRefused},
};

enum class Kind { kInt, kFloat };
struct Member {
  const char* name;
  const char* key;  // after "<architecture>."
  Kind kind;
  bool required;
};
constexpr Member kMembers[] = {
    {"hidden_size", "embedding_length", Kind::kInt, true},
    {"intermediate_size", "feed_forward_length", Kind::kInt, true},
    {"num_hidden_layers", "block_count", Kind::kInt, true},
    {"num_attention_heads", "attention.head_count", Kind::kInt, true},
    {"num_key_value_heads", "attention.head_count_kv", Kind::kInt, false},
    {"head_dim", "attention.key_length", Kind::kInt, false},
    {"head_dim", "attention.value_length", Kind::kInt, false},
    {"max_position_embeddings", "context_length", Kind::kInt, true},
    {"vocab_size", "vocab_size", Kind::kInt, true},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Kind::kFloat, true},
};

absl::StatusOr<const Family*> FindFamily(const JsonObject& config) {
  ASSIGN_OR_RETURN(const std::string type, config.StringOr("model_type", ""));
  std::string known;
  for (const Family& f : kFamilies) {
    if (type == f.model_type) return &f;
    absl::StrAppend(&known, known.empty() ? "" : ", ", f.model_type);
  }
  return absl::UnimplementedError(
      absl::StrCat(config.file(), ": 'model_type' is ", Quoted(type), ", which is not known; known are ", known));
}

absl::Status AddWindow(const JsonObject& config, const Family& family, GgufAssembler* out) {
  if (family.window == Window::kSlides) {
    ASSIGN_OR_RETURN(const int64_t window, config.IntOr("sliding_window", 0));
    out->Int(absl::StrCat(family.architecture, ".attention.sliding_window"), window);
  }
  ASSIGN_OR_RETURN(const bool some_layers, config.BoolOr("use_sliding_window", false));
  if (family.window == Window::kRefused && some_layers) {
    return absl::UnimplementedError(
        absl::StrCat(config.file(), ": 'use_sliding_window' is true: windows of single layers are not supported"));
  }
  return absl::OkStatus();
}

absl::Status RefuseUnsupported(const JsonObject& config) {
  ASSIGN_OR_RETURN(const std::string activation, config.StringOr("hidden_act", "silu"));
  if (activation != "silu") {
    return absl::UnimplementedError(
        absl::StrCat(config.file(), ": 'hidden_act' is ", Quoted(activation), "; only silu is supported"));
  }
  ASSIGN_OR_RETURN(const double rotary, config.FloatOr("partial_rotary_factor", 1.0));
  if (rotary != 1.0) {
    return absl::UnimplementedError(
        absl::StrCat(config.file(), ": 'partial_rotary_factor' is ", rotary, "; only 1 is supported"));
  }
  return absl::OkStatus();
}

// The divisors of Llama 3's scaling: waves that are short for the old context stay, long ones are stretched by the
// factor, those between pass smoothly from one to the other.
absl::StatusOr<std::vector<float>> Llama3Divisors(const JsonObject& config, const JsonObject& rope, double theta) {
  ASSIGN_OR_RETURN(const int64_t hidden, config.Int("hidden_size"));
  ASSIGN_OR_RETURN(const int64_t heads, config.Int("num_attention_heads"));
  ASSIGN_OR_RETURN(const int64_t head_dim, config.IntOr("head_dim", heads > 0 ? hidden / heads : 0));
  constexpr int64_t kMaxHeadDim = 4096;
  if (head_dim < 2 || head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file(), ": a head has ", head_dim, " dimensions; 2 to ", kMaxHeadDim, " are allowed"));
  }
  ASSIGN_OR_RETURN(const double factor, rope.Float("factor"));
  ASSIGN_OR_RETURN(const double low, rope.Float("low_freq_factor"));
  ASSIGN_OR_RETURN(const double high, rope.Float("high_freq_factor"));
  ASSIGN_OR_RETURN(const double old_context, rope.Float("original_max_position_embeddings"));
  if (!(factor >= 1.0 && low > 0.0 && high > low && old_context >= 1.0 && theta >= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat(config.file(), ": the llama3 RoPE scaling has factor ", factor,
                                                   ", low_freq_factor ", low, ", high_freq_factor ", high,
                                                   ", original_max_position_embeddings ", old_context, ", rope_theta ",
                                                   theta, ", which make no sense together"));
  }
  std::vector<float> divisors;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    constexpr double kTwoPi = 6.283185307179586;
    const double wavelength = kTwoPi * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    const double smooth = (old_context / wavelength - low) / (high - low);
    double divisor = 1.0 / ((1.0 - smooth) / factor + smooth);
    if (wavelength < old_context / high) divisor = 1.0;
    if (wavelength > old_context / low) divisor = factor;
    divisors.push_back(static_cast<float>(divisor));
  }
  return divisors;
}

absl::Status AddRope(const JsonObject& config, const Family& family, GgufAssembler* out, HfConfig* result) {
  const bool nested = config.Find("rope_parameters") != nullptr;
  ASSIGN_OR_RETURN(const JsonObject rope, config.Object(nested ? "rope_parameters" : "rope_scaling"));
  ASSIGN_OR_RETURN(const double flat_theta, config.FloatOr("rope_theta", 10000.0));
  ASSIGN_OR_RETURN(const double theta, rope.FloatOr("rope_theta", flat_theta));
  ASSIGN_OR_RETURN(const std::string old_type, rope.StringOr("type", "default"));
  ASSIGN_OR_RETURN(const std::string type, rope.StringOr("rope_type", old_type));
  const std::string prefix = absl::StrCat(family.architecture, ".rope.");
  out->Float(absl::StrCat(prefix, "freq_base"), theta);
  out->String("dunlin.rope_pairing", "halves");
  if (type == "default") return absl::OkStatus();
  if (type == "linear") {
    ASSIGN_OR_RETURN(const double factor, rope.Float("factor"));
    out->Float(absl::StrCat(prefix, "scaling.factor"), factor);
    return absl::OkStatus();
  }
  if (type != "llama3") {
    return absl::UnimplementedError(absl::StrCat(config.file(), ": RoPE scaling of type ", Quoted(type),
                                                 ": only default, linear and llama3 are supported"));
  }
  ASSIGN_OR_RETURN(result->rope_freqs, Llama3Divisors(config, rope, theta));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HfConfig> DescribeHfConfig(const JsonObject& config, const std::string& name, GgufAssembler* out) {
  ASSIGN_OR_RETURN(const Family* family, FindFamily(config));
  HfConfig result;
  result.architecture = family->architecture;
  result.qkv_bias = family->qkv_bias;
  out->String("general.architecture", family->architecture);
  out->String("general.name", name);
  for (const Member& m : kMembers) {
    if (config.Find(m.name) == nullptr && !m.required) continue;
    const std::string key = absl::StrCat(family->architecture, ".", m.key);
    if (m.kind == Kind::kInt) {
      ASSIGN_OR_RETURN(const int64_t value, config.Int(m.name));
      out->Int(key, value);
    } else {
      ASSIGN_OR_RETURN(const double value, config.Float(m.name));
      out->Float(key, value);
    }
  }
  if (family->needs_head_dim) RETURN_IF_ERROR(config.Int("head_dim").status());
  RETURN_IF_ERROR(RefuseUnsupported(config));
  RETURN_IF_ERROR(AddWindow(config, *family, out));
  RETURN_IF_ERROR(AddRope(config, *family, out, &result));
  if (config.Find("tie_word_embeddings") != nullptr) {
    ASSIGN_OR_RETURN(result.tied, config.BoolOr("tie_word_embeddings", false));
  }
  return result;
}

}  // namespace dunlin::model
