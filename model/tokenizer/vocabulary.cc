#include "model/tokenizer/vocabulary.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"

namespace dunlin::model {
namespace {

// Absent is not an error of its own here: which keys a tokenizer needs is part of the vocabulary's consistency.
absl::Status AsInvalid(const absl::Status& status) {
  if (!absl::IsNotFound(status)) return status;
  return absl::InvalidArgumentError(status.message());
}

absl::Status WrongType(absl::string_view key, absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": wanted ", wanted));
}

// nullptr when the key is absent; an error when it is no array of `wanted`.
absl::StatusOr<const GgufValue*> FindArray(const Gguf& gguf, absl::string_view key, GgufType element,
                                           absl::string_view wanted) {
  const GgufValue* value = gguf.Find(key);
  if (value == nullptr) return nullptr;
  if (value->type != GgufType::kArray || value->element_type != element) return WrongType(key, wanted);
  return value;
}

absl::Status ReadStrings(const Gguf& gguf, absl::string_view key, std::vector<std::string>* out) {
  ASSIGN_OR_RETURN(const GgufValue* value, FindArray(gguf, key, GgufType::kString, "an array of strings"));
  if (value == nullptr) return absl::OkStatus();
  out->reserve(value->strings.size());
  for (const absl::string_view text : value->strings) out->emplace_back(text);
  return absl::OkStatus();
}

absl::Status ReadTypes(const Gguf& gguf, std::vector<TokenType>* out) {
  constexpr absl::string_view kKey = "tokenizer.ggml.token_type";
  ASSIGN_OR_RETURN(const GgufValue* value, FindArray(gguf, kKey, GgufType::kI32, "an array of i32"));
  if (value == nullptr) return absl::OkStatus();
  out->reserve(value->integers.size());
  for (size_t i = 0; i < value->integers.size(); ++i) {
    const int64_t type = value->integers[i];
    if (type < static_cast<int64_t>(TokenType::kNormal) || type > static_cast<int64_t>(TokenType::kByte)) {
      return absl::InvalidArgumentError(absl::StrCat(kKey, "[", i, "] = ", type, ": wanted 1 to 6"));
    }
    out->push_back(static_cast<TokenType>(type));
  }
  return absl::OkStatus();
}

absl::Status ReadScores(const Gguf& gguf, std::vector<float>* out) {
  ASSIGN_OR_RETURN(const GgufValue* value, FindArray(gguf, "tokenizer.ggml.scores", GgufType::kF32, "an array of f32"));
  if (value == nullptr) return absl::OkStatus();
  out->reserve(value->floats.size());
  for (const double score : value->floats) out->push_back(static_cast<float>(score));
  return absl::OkStatus();
}

absl::Status ReadId(const Gguf& gguf, absl::string_view key, TokenId* out) {
  if (gguf.Find(key) == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const int64_t id, gguf.GetInt(key, 0, std::numeric_limits<TokenId>::max()));
  *out = static_cast<TokenId>(id);
  return absl::OkStatus();
}

absl::Status ReadFlag(const Gguf& gguf, absl::string_view key, std::optional<bool>* out) {
  if (gguf.Find(key) == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(*out, gguf.GetBool(key));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Vocabulary> ReadVocabulary(const Gguf& gguf) {
  Vocabulary v;
  const absl::StatusOr<absl::string_view> model = gguf.GetString("tokenizer.ggml.model");
  if (!model.ok()) return AsInvalid(model.status());
  v.model = std::string(*model);
  if (gguf.Find("tokenizer.ggml.pre") != nullptr) {
    ASSIGN_OR_RETURN(const absl::string_view pre, gguf.GetString("tokenizer.ggml.pre"));
    v.pre = std::string(pre);
  }
  RETURN_IF_ERROR(ReadStrings(gguf, "tokenizer.ggml.tokens", &v.tokens));
  RETURN_IF_ERROR(ReadTypes(gguf, &v.types));
  RETURN_IF_ERROR(ReadScores(gguf, &v.scores));
  RETURN_IF_ERROR(ReadStrings(gguf, "tokenizer.ggml.merges", &v.merges));
  RETURN_IF_ERROR(ReadId(gguf, "tokenizer.ggml.bos_token_id", &v.bos_id));
  RETURN_IF_ERROR(ReadId(gguf, "tokenizer.ggml.eos_token_id", &v.eos_id));
  RETURN_IF_ERROR(ReadId(gguf, "tokenizer.ggml.eot_token_id", &v.eot_id));
  RETURN_IF_ERROR(ReadId(gguf, "tokenizer.ggml.eom_token_id", &v.eom_id));
  RETURN_IF_ERROR(ReadFlag(gguf, "tokenizer.ggml.add_bos_token", &v.add_bos));
  RETURN_IF_ERROR(ReadFlag(gguf, "tokenizer.ggml.add_eos_token", &v.add_eos));
  RETURN_IF_ERROR(ReadFlag(gguf, "tokenizer.ggml.add_space_prefix", &v.add_space_prefix));
  ASSIGN_OR_RETURN(v.remove_extra_whitespaces, gguf.GetBoolOr("tokenizer.ggml.remove_extra_whitespaces", false));
  return v;
}

}  // namespace dunlin::model
