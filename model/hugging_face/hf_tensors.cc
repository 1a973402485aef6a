#include "model/hugging_face/hf_tensors.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

using kernels::GroupMatrix;

struct Name {
  const char* hugging_face;
  const char* gguf;
};
constexpr Name kModelNames[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
// After "model.layers.N." and "blk.N.".
constexpr Name kLayerNames[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

// "a.b.weight" -> {"a.b", "weight"}.
std::pair<absl::string_view, absl::string_view> SplitSuffix(absl::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == absl::string_view::npos) return {name, ""};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

const char* Lookup(std::span<const Name> names, absl::string_view stem) {
  for (const Name& n : names) {
    if (stem == n.hugging_face) return n.gguf;
  }
  return nullptr;
}

bool AllZero(std::span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

// AutoGPTQ writes a bias of zeros where the layer has none.
bool IsEmptyBias(const SafeTensor& t, const HfConfig& config) {
  const auto [stem, suffix] = SplitSuffix(t.name);
  if (suffix != "bias" || !AllZero(t.data)) return false;
  return !(config.qkv_bias &&
           (absl::EndsWith(stem, ".q_proj") || absl::EndsWith(stem, ".k_proj") || absl::EndsWith(stem, ".v_proj")));
}

template <typename... Args>
absl::Status Bad(absl::string_view tensor, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(tensor), " ", args...));
}

std::string Dims(const SafeTensor& t) { return absl::StrCat("[", absl::StrJoin(t.shape, ", "), "]"); }

absl::Status AddFloat(const SafeTensor& t, GgufAssembler* out) {
  struct Type {
    const char* dtype;
    kernels::DType type;
  };
  constexpr Type kTypes[] = {
      {"F32", kernels::DType::kF32}, {"F16", kernels::DType::kF16}, {"BF16", kernels::DType::kBF16}};
  const auto* type =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const Type& k) { return t.dtype == k.dtype; });
  if (type == std::end(kTypes)) {
    return absl::UnimplementedError(absl::StrCat("tensor ", Quoted(t.name), " has dtype ", t.dtype,
                                                 "; F32, F16, BF16 and AutoGPTQ's arrays are supported"));
  }
  std::vector<int64_t> dims(t.shape.rbegin(), t.shape.rend());
  if (dims.empty()) dims.push_back(1);
  constexpr size_t kMaxDims = 4;
  if (dims.size() > kMaxDims || t.data.empty()) return Bad(t.name, "has shape ", Dims(t), ", which no model uses");
  out->Tensor(GgufTensorName(t.name), type->type, std::move(dims), t.data);
  return absl::OkStatus();
}

// The arrays of one quantised matrix.
struct Arrays {
  const SafeTensor* qweight = nullptr;
  const SafeTensor* qzeros = nullptr;
  const SafeTensor* scales = nullptr;
  const SafeTensor* g_idx = nullptr;

  const SafeTensor** Field(absl::string_view suffix) {
    if (suffix == "qweight") return &qweight;
    if (suffix == "qzeros") return &qzeros;
    if (suffix == "scales") return &scales;
    if (suffix == "g_idx") return &g_idx;
    return nullptr;
  }
};

absl::Status CheckArray(const std::string& stem, const char* suffix, const SafeTensor* t, absl::string_view dtype,
                        const std::vector<int64_t>& shape) {
  if (t == nullptr) return absl::NotFoundError(absl::StrCat("tensor ", Quoted(stem + "." + suffix), " is missing"));
  if (t->dtype == dtype && t->shape == shape) return absl::OkStatus();
  return Bad(t->name, "is ", t->dtype, " ", Dims(*t), "; ", dtype, " [", absl::StrJoin(shape, ", "), "] is wanted");
}

// Every column's group follows from its place; anything else is desc_act's order.
absl::Status CheckOrder(const std::string& stem, const GptqConfig& config, const GroupMatrix& m,
                        const SafeTensor* g_idx) {
  bool ordered = true;
  if (g_idx == nullptr) {
    ordered = !config.desc_act || config.group_size < 0;
  } else {
    RETURN_IF_ERROR(CheckArray(stem, "g_idx", g_idx, "I32", {m.cols}));
    for (int col = 0; col < m.cols && ordered; ++col) {
      int32_t group;
      std::memcpy(&group, g_idx->data.data() + 4 * static_cast<size_t>(col), sizeof group);
      ordered = group == m.group_of(col);
    }
  }
  if (ordered) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("matrix ", Quoted(stem),
                   " was quantised with desc_act: its columns are not in the order of their "
                   "groups, which is not supported; quantise with desc_act false"));
}

absl::Status CheckScales(const SafeTensor& scales) {
  for (size_t at = 0; at < scales.data.size(); at += 2) {
    const int bits = scales.data[at] | (scales.data[at + 1] << 8);
    if ((bits & 0x7C00) == 0x7C00) return Bad(scales.name, "holds a scale that is not finite, number ", at / 2);
  }
  return absl::OkStatus();
}

absl::StatusOr<GroupMatrix> MakeMatrix(const std::string& stem, const GptqConfig& config, const Arrays& arrays) {
  constexpr int64_t kMaxWidth = int64_t{1} << 24;
  if (arrays.qweight == nullptr)
    return absl::NotFoundError(absl::StrCat("tensor ", Quoted(stem + ".qweight"), " is missing"));
  const std::vector<int64_t>& shape = arrays.qweight->shape;
  const int64_t word_rows = shape.size() == 2 ? shape[0] : 0, rows = shape.size() == 2 ? shape[1] : 0;
  if (word_rows < 1 || rows < 1 || word_rows > kMaxWidth || rows > kMaxWidth || word_rows % config.bits != 0 ||
      rows * config.bits % 32 != 0) {
    return Bad(arrays.qweight->name, "has shape ", Dims(*arrays.qweight), ", which is none of ", config.bits,
               "-bit columns in blocks of 32");
  }
  GroupMatrix m;
  m.rows = static_cast<int>(rows);
  m.cols = static_cast<int>(word_rows / config.bits * 32);
  m.bits = config.bits;
  m.group_size = config.group_size;
  m.zero_minus_one = config.zero_minus_one;
  RETURN_IF_ERROR(CheckArray(stem, "qweight", arrays.qweight, "I32", shape));
  RETURN_IF_ERROR(CheckArray(stem, "qzeros", arrays.qzeros, "I32", {m.num_groups(), rows * config.bits / 32}));
  RETURN_IF_ERROR(CheckArray(stem, "scales", arrays.scales, "F16", {m.num_groups(), rows}));
  RETURN_IF_ERROR(CheckOrder(stem, config, m, arrays.g_idx));
  RETURN_IF_ERROR(CheckScales(*arrays.scales));
  m.qweight = arrays.qweight->data;
  m.qzeros = arrays.qzeros->data;
  m.scales = arrays.scales->data;
  // A symmetric grid's zero is its middle. Where that is what is stored, the file is of the second form, whatever it
  // says of itself: some writers label it with the first.
  if (config.sym && m.zero_minus_one) {
    const int middle = 1 << (m.bits - 1);
    if (m.zero(0, 0) == ((middle + 1) & ((1 << m.bits) - 1))) m.zero_minus_one = false;
  }
  return m;
}

}  // namespace

std::string GgufTensorName(absl::string_view name) {
  const auto [stem, suffix] = SplitSuffix(name);
  if (const char* found = Lookup(kModelNames, stem)) return absl::StrCat(found, ".", suffix);
  absl::string_view rest = stem;
  if (!absl::ConsumePrefix(&rest, "model.layers.")) return std::string(name);
  const size_t dot = rest.find('.');
  int layer = 0;
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(rest.substr(0, dot), &layer) || layer < 0) {
    return std::string(name);
  }
  const char* found = Lookup(kLayerNames, rest.substr(dot + 1));
  return found == nullptr ? std::string(name) : absl::StrCat("blk.", layer, ".", found, ".", suffix);
}

absl::StatusOr<std::optional<GptqConfig>> ReadGptqConfig(const JsonObject& config, const JsonObject& quantize_config) {
  ASSIGN_OR_RETURN(JsonObject q, config.Object("quantization_config"));
  if (q.empty()) q = quantize_config;
  if (q.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const std::string method, q.StringOr("quant_method", "gptq"));
  ASSIGN_OR_RETURN(const std::string format, q.StringOr("checkpoint_format", "gptq"));
  if (method != "gptq" || (format != "gptq" && format != "gptq_v2")) {
    return absl::UnimplementedError(absl::StrCat(q.file(), ": quantisation method ", Quoted(method), ", format ",
                                                 Quoted(format),
                                                 ": only gptq in formats gptq and gptq_v2 is supported"));
  }
  GptqConfig out;
  ASSIGN_OR_RETURN(const int64_t bits, q.Int("bits"));
  if (!kernels::IsGroupBits(bits)) {
    return absl::UnimplementedError(absl::StrCat(q.file(), ": 'bits' is ", bits, "; 2, 3, 4 and 8 are supported"));
  }
  ASSIGN_OR_RETURN(const int64_t group_size, q.IntOr("group_size", -1));
  if (group_size != -1 && (group_size < 32 || group_size > 1 << 24 || group_size % 32 != 0)) {
    return absl::UnimplementedError(
        absl::StrCat(q.file(), ": 'group_size' is ", group_size, "; -1 and multiples of 32 are supported"));
  }
  out.bits = static_cast<int>(bits);
  out.group_size = static_cast<int>(group_size);
  ASSIGN_OR_RETURN(out.desc_act, q.BoolOr("desc_act", false));
  ASSIGN_OR_RETURN(out.sym, q.BoolOr("sym", true));
  out.zero_minus_one = format == "gptq";
  return out;
}

absl::StatusOr<GroupedTensors> DescribeHfTensors(const std::vector<const SafeTensors*>& files, const HfConfig& config,
                                                 const std::optional<GptqConfig>& gptq, GgufAssembler* out) {
  std::map<std::string, Arrays> matrices;  // by stem
  for (const SafeTensors* file : files) {
    for (const SafeTensor& t : file->tensors()) {
      const auto [stem, suffix] = SplitSuffix(t.name);
      // Old checkpoints keep what follows from the configuration.
      if (absl::EndsWith(t.name, ".rotary_emb.inv_freq")) continue;
      if (config.tied == true && stem == "lm_head") continue;
      if (IsEmptyBias(t, config)) continue;
      if (Arrays{}.Field(suffix) == nullptr) {
        RETURN_IF_ERROR(AddFloat(t, out));
        continue;
      }
      if (!gptq.has_value()) return Bad(t.name, "is of a quantised matrix, but there is no quantization_config");
      const SafeTensor*& field = *matrices[std::string(stem)].Field(suffix);
      if (field != nullptr) return Bad(t.name, "occurs twice");
      field = &t;
    }
  }
  GroupedTensors grouped;
  for (const auto& [stem, arrays] : matrices) {
    ASSIGN_OR_RETURN(const GroupMatrix m, MakeMatrix(stem, *gptq, arrays));
    const std::string name = GgufTensorName(stem + ".weight");
    out->Tensor(name, GroupBlockType(m), {m.cols, m.rows}, {});
    grouped.emplace(name, m);
  }
  return grouped;
}

}  // namespace dunlin::model
