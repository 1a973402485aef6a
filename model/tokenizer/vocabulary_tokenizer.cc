#include "model/tokenizer/vocabulary_tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace dunlin::model {
namespace {

// Texts that end a turn or a document in the models that have them, whichever of them a file names as EOS.
constexpr absl::string_view kEndOfGenerationTexts[] = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
};

absl::Status CheckId(absl::string_view key, TokenId id, size_t vocab_size) {
  if (id >= -1 && (id < 0 || static_cast<size_t>(id) < vocab_size)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.ggml.", key, " = ", id, ": the vocabulary has ", vocab_size, " tokens"));
}

absl::Status CheckConsistent(const Vocabulary& v) {
  const size_t n = v.tokens.size();
  if (n == 0 || n > static_cast<size_t>(std::numeric_limits<TokenId>::max())) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens: ", n, " entries; wanted 1 to 2^31 - 1"));
  }
  if (!v.types.empty() && v.types.size() != n) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.ggml.token_type: ", v.types.size(), " entries for ", n, " tokens"));
  }
  RETURN_IF_ERROR(CheckId("bos_token_id", v.bos_id, n));
  RETURN_IF_ERROR(CheckId("eos_token_id", v.eos_id, n));
  RETURN_IF_ERROR(CheckId("eot_token_id", v.eot_id, n));
  RETURN_IF_ERROR(CheckId("eom_token_id", v.eom_id, n));
  if (v.add_bos.value_or(false) && v.bos_id < 0) {
    return absl::InvalidArgumentError("tokenizer.ggml.add_bos_token is true but bos_token_id is absent");
  }
  if (v.add_eos.value_or(false) && v.eos_id < 0) {
    return absl::InvalidArgumentError("tokenizer.ggml.add_eos_token is true but eos_token_id is absent");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status VocabularyTokenizer::Init(const Vocabulary& vocabulary, std::vector<std::string> bytes,
                                       bool default_add_bos) {
  RETURN_IF_ERROR(CheckConsistent(vocabulary));
  CHECK_EQ(bytes.size(), vocabulary.tokens.size());
  bytes_ = std::move(bytes);
  model_ = vocabulary.model;
  pre_ = vocabulary.pre;
  vocab_size_ = static_cast<int>(bytes_.size());
  bos_id_ = vocabulary.bos_id;
  eos_id_ = vocabulary.eos_id;
  add_bos_ = vocabulary.add_bos.value_or(default_add_bos && bos_id_ >= 0);
  add_eos_ = vocabulary.add_eos.value_or(false);
  is_control_.resize(bytes_.size());
  for (TokenId id = 0; id < vocab_size_; ++id) {
    const TokenType type = vocabulary.type(id);
    const bool special = IsSpecial(type);
    is_control_[static_cast<size_t>(id)] = special ? 1 : 0;
    if (!special && type != TokenType::kUserDefined) continue;
    const std::string& text = bytes_[static_cast<size_t>(id)];
    if (text.empty()) continue;
    // Cutting at such a token could leave half a code point on either side.
    if (FindInvalidUtf8(text) != absl::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.tokens[", id, "]: a control or user-defined token that is not valid UTF-8"));
    }
    special_tokens_.Add(text, id, special);
  }
  CollectEndOfGeneration(vocabulary);
  return absl::OkStatus();
}

void VocabularyTokenizer::CollectEndOfGeneration(const Vocabulary& vocabulary) {
  for (const TokenId id : {vocabulary.eos_id, vocabulary.eot_id, vocabulary.eom_id}) {
    if (id >= 0) end_of_generation_.push_back(id);
  }
  for (TokenId id = 0; id < vocab_size_; ++id) {
    const TokenType type = vocabulary.type(id);
    // The same letters in an ordinary token are text that a model may quote.
    if (type != TokenType::kControl && type != TokenType::kUserDefined) continue;
    for (const absl::string_view text : kEndOfGenerationTexts) {
      if (text == vocabulary.tokens[static_cast<size_t>(id)]) end_of_generation_.push_back(id);
    }
  }
  std::sort(end_of_generation_.begin(), end_of_generation_.end());
  end_of_generation_.erase(std::unique(end_of_generation_.begin(), end_of_generation_.end()), end_of_generation_.end());
}

absl::StatusOr<std::vector<TokenId>> VocabularyTokenizer::EncodeSegments(std::span<const TextSegment> segments,
                                                                         bool add_special) const {
  std::string text;
  std::vector<SpecialTokens::Trusted> trusted;
  for (const TextSegment& segment : segments) {
    if (segment.text.empty()) continue;
    if (segment.text.size() > kMaxTextBytes - text.size()) {
      return absl::InvalidArgumentError(absl::StrCat("text to tokenize: over the limit of ", kMaxTextBytes, " bytes"));
    }
    const size_t begin = text.size();
    absl::StrAppend(&text, segment.text);
    if (!segment.parse_special) continue;
    if (!trusted.empty() && trusted.back().end == begin) {
      trusted.back().end = text.size();
    } else {
      trusted.push_back({begin, text.size()});
    }
  }
  if (const size_t offset = FindInvalidUtf8(text); offset != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("text to tokenize: invalid UTF-8 at byte ", offset));
  }
  std::vector<TokenId> ids;
  if (add_special && add_bos_) ids.push_back(bos_id_);
  size_t next_trusted = 0;
  for (size_t at = 0; at < text.size();) {
    const SpecialTokens::Match match = special_tokens_.Find(text, at, trusted, &next_trusted);
    if (match.begin > at) {
      RETURN_IF_ERROR(EncodeText(absl::string_view(text).substr(at, match.begin - at), &ids));
    }
    if (match.length != 0) ids.push_back(match.id);
    at = match.begin + match.length;
  }
  if (add_special && add_eos_) ids.push_back(eos_id_);
  return ids;
}

absl::string_view VocabularyTokenizer::TokenBytes(TokenId id, bool special_text) const {
  CHECK_GE(id, 0);
  CHECK_LT(id, vocab_size_);
  if (IsControl(id) && !special_text) return "";
  return bytes_[static_cast<size_t>(id)];
}

}  // namespace dunlin::model
