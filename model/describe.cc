#include "model/describe.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/gguf/gguf_types.h"
#include "model/model_config.h"
#include "nlohmann/json.hpp"

namespace dunlin::model {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownElements = 4;
constexpr size_t kShownBytes = 80;

// At most kShownBytes bytes, not cut inside a UTF-8 sequence.
absl::string_view Head(absl::string_view text) {
  if (text.size() <= kShownBytes) return text;
  size_t end = kShownBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

Json StringToJson(absl::string_view text) {
  if (text.size() <= kShownBytes) return std::string(text);
  return Json{{"bytes", text.size()}, {"first", std::string(Head(text))}};
}

Json ArrayToJson(const GgufValue& value) {
  Json first = Json::array();
  for (size_t i = 0; i < std::min(value.strings.size(), kShownElements); ++i)
    first.push_back(std::string(Head(value.strings[i])));
  for (size_t i = 0; i < std::min(value.floats.size(), kShownElements); ++i) first.push_back(value.floats[i]);
  for (size_t i = 0; i < std::min(value.integers.size(), kShownElements); ++i) first.push_back(value.integers[i]);
  return Json{{"element_type", GgufTypeName(value.element_type)},
              {"array_length", value.array_size()},
              {"first", std::move(first)}};
}

Json ValueToJson(const GgufValue& value) {
  if (value.type == GgufType::kArray) return ArrayToJson(value);
  if (const auto* text = std::get_if<absl::string_view>(&value.scalar)) return StringToJson(*text);
  if (const auto* flag = std::get_if<bool>(&value.scalar)) return *flag;
  if (const auto* integer = std::get_if<int64_t>(&value.scalar)) return *integer;
  if (const auto* big = std::get_if<uint64_t>(&value.scalar)) return *big;
  if (const auto* number = std::get_if<double>(&value.scalar)) return *number;
  return nullptr;
}

// Readable UTF-8 stays; ASCII controls are escaped by Abseil, the C1 controls (U+0080 to U+009F, two bytes from 0xC2)
// here.
std::string EscapedText(absl::string_view text) {
  std::string out;
  const std::string safe = absl::Utf8SafeCEscape(text);
  for (size_t i = 0; i < safe.size(); ++i) {
    const auto next = static_cast<unsigned char>(i + 1 < safe.size() ? safe[i + 1] : '\0');
    if (safe[i] == '\xC2' && next >= 0x80 && next < 0xA0) {
      absl::StrAppendFormat(&out, "\\u%04x", next);
      ++i;
    } else {
      out.push_back(safe[i]);
    }
  }
  return out;
}

std::string Escaped(absl::string_view text) { return absl::StrCat("\"", EscapedText(Head(text)), "\""); }

std::string ArrayToText(const GgufValue& value) {
  std::string out = absl::StrFormat("%d x %s [", value.array_size(), GgufTypeName(value.element_type));
  const size_t shown = std::min(value.array_size(), kShownElements);
  for (size_t i = 0; i < shown; ++i) {
    if (i > 0) out += ", ";
    if (!value.strings.empty()) {
      out += Escaped(value.strings[i]);
    } else if (!value.floats.empty()) {
      absl::StrAppend(&out, value.floats[i]);
    } else {
      absl::StrAppend(&out, value.integers[i]);
    }
  }
  return out + (shown < value.array_size() ? ", ...]" : "]");
}

std::string ValueToText(const GgufValue& value) {
  if (value.type == GgufType::kArray) return ArrayToText(value);
  if (const auto* text = std::get_if<absl::string_view>(&value.scalar)) {
    return text->size() <= kShownBytes ? Escaped(*text)
                                       : absl::StrCat(Escaped(*text), "... (", text->size(), " bytes)");
  }
  return ValueToJson(value).dump();
}

struct TypeTotal {
  size_t tensors = 0;
  size_t bytes = 0;
};

std::map<std::string, TypeTotal> TotalsByType(const Gguf& gguf) {
  std::map<std::string, TypeTotal> out;
  for (const GgufTensor& t : gguf.tensors()) {
    TypeTotal& total = out[kernels::GetDTypeInfo(t.type).name];
    ++total.tensors;
    total.bytes += t.num_bytes();
  }
  return out;
}

// Name and value of what the network needs, in reading order.
Json ConfigToJson(const ModelConfig& c) {
  return Json{{"architecture", c.architecture},
              {"name", c.name},
              {"quantization", c.quantization},
              {"layers", c.num_layers},
              {"hidden_size", c.hidden_size},
              {"ffn_size", c.ffn_size},
              {"q_heads", c.num_q_heads},
              {"kv_heads", c.num_kv_heads},
              {"head_dim", c.head_dim},
              {"vocab_size", c.vocab_size},
              {"context_tokens", c.context_tokens},
              {"sliding_window", c.sliding_window},
              {"tied_output", c.tied_output},
              {"kv_values_per_token", c.kv_values_per_token()}};
}

}  // namespace

std::string DescribeGguf(const Gguf& gguf, bool json) {
  const absl::StatusOr<ModelConfig> config = ReadModelConfig(gguf);
  const absl::Status runnable = ParseModelConfig(gguf).status();
  const std::string reason(runnable.message());
  const std::map<std::string, TypeTotal> totals = TotalsByType(gguf);
  size_t all_bytes = 0;
  for (const auto& [name, total] : totals) all_bytes += total.bytes;

  Json metadata = Json::object();
  // Appended as they come: keys are unique, and a lookup per insertion would be quadratic in hostile files.
  auto& entries = metadata.get_ref<Json::object_t&>();
  Json types = Json::object();
  std::string text = gguf.version() == 0
                         ? "Hugging Face checkpoint, in GGUF's terms"
                         : absl::StrFormat("GGUF version %d, alignment %d", gguf.version(), gguf.alignment());
  absl::StrAppendFormat(&text, "\n\nMetadata (%d keys)\n", gguf.keys().size());
  for (const std::string& key : gguf.keys()) {
    const GgufValue& value = *gguf.Find(key);
    if (json) {
      entries.emplace_back(key, ValueToJson(value));
    } else {
      absl::StrAppend(&text, "  ", EscapedText(Head(key)), " = ", ValueToText(value), "\n");
    }
  }
  absl::StrAppendFormat(&text, "\nTensors (%d, %d bytes)\n", gguf.tensors().size(), all_bytes);
  for (const auto& [name, total] : totals) {
    types[name] = Json{{"tensors", total.tensors}, {"bytes", total.bytes}};
    absl::StrAppendFormat(&text, "  %-8s %5d tensors %14d bytes\n", name, total.tensors, total.bytes);
  }
  Json model = config.ok() ? ConfigToJson(*config) : Json(nullptr);
  if (json) {
    const Json out = {{"version", gguf.version()},
                      {"alignment", gguf.alignment()},
                      {"metadata", std::move(metadata)},
                      {"tensor_count", gguf.tensors().size()},
                      {"tensor_bytes", all_bytes},
                      {"tensor_types", std::move(types)},
                      {"config", std::move(model)},
                      {"runnable", runnable.ok()},
                      {"reason", reason}};
    return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  text += "\nModel\n";
  for (const auto& [name, value] : model.items()) {
    absl::StrAppendFormat(&text, "  %-20s %s\n", name,
                          value.is_string() ? Escaped(value.get<std::string>()) : value.dump());
  }
  absl::StrAppend(&text, "  ",
                  runnable.ok() ? "runs on this build" : absl::StrCat("does not run on this build: ", reason), "\n");
  return text;
}

}  // namespace dunlin::model
