#include "model/tokenizer/bpe_tokenizer.h"

#include <cstdint>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/byte_level.h"

namespace dunlin::model {
namespace {

// Added tokens are written as themselves, ordinary ones in the byte spelling.
std::vector<std::string> TokenTexts(const Vocabulary& vocabulary) {
  std::vector<std::string> texts;
  texts.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const TokenType type = vocabulary.type(static_cast<TokenId>(i));
    const bool added = IsSpecial(type) || type == TokenType::kUserDefined;
    texts.push_back(added ? vocabulary.tokens[i] : BytesOfSpelling(vocabulary.tokens[i]));
  }
  return texts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> BpeTokenizer::Create(const Vocabulary& vocabulary) {
  if (vocabulary.pre.empty()) {
    return absl::UnimplementedError(absl::StrCat(
        "tokenizer.ggml.pre is absent, and which pre-tokenizer to use is not guessed; known: ", KnownPreTokenizers()));
  }
  const PreTokenizerFamily* family = FindPreTokenizerFamily(vocabulary.pre);
  if (family == nullptr) {
    return absl::UnimplementedError(absl::StrCat("tokenizer.ggml.pre = \"", vocabulary.pre,
                                                 "\": unknown pre-tokenizer; known: ", KnownPreTokenizers()));
  }
  if (vocabulary.add_space_prefix.value_or(false)) {
    return absl::UnimplementedError("tokenizer.ggml.add_space_prefix = true is not supported by the gpt2 tokenizer");
  }
  auto result = absl::WrapUnique(new BpeTokenizer);
  RETURN_IF_ERROR(result->Init(vocabulary, TokenTexts(vocabulary), family->add_bos));
  RETURN_IF_ERROR(result->AddMerges(vocabulary));
  ASSIGN_OR_RETURN(result->pre_tokenizer_, PreTokenizer::Create(family->expressions));
  if (family->ignore_merges) {
    for (TokenId id = 0; id < result->vocab_size(); ++id) {
      if (!result->IsControl(id)) result->whole_pieces_.try_emplace(result->bytes()[static_cast<size_t>(id)], id);
    }
  }
  return std::unique_ptr<const Tokenizer>(std::move(result));
}

absl::Status BpeTokenizer::AddMerges(const Vocabulary& vocabulary) {
  // Of two tokens with one text the lower id is meant.
  absl::flat_hash_map<absl::string_view, TokenId> ids;
  ids.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    ids.try_emplace(vocabulary.tokens[i], static_cast<TokenId>(i));
  }
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    const auto it = ids.find(ByteSpelling(static_cast<uint8_t>(byte)));
    byte_ids_[byte] = it == ids.end() || IsControl(it->second) ? -1 : it->second;
  }
  merges_.Reserve(vocabulary.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const absl::string_view merge = vocabulary.merges[rank];
    // The left half may itself be a space, so the separator is looked for from the second byte on.
    const size_t space = merge.find(' ', 1);
    if (space == absl::string_view::npos || space + 1 == merge.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer.ggml.merges[", rank, "] = \"", merge, "\": wanted two texts with a space between"));
    }
    const absl::string_view left = merge.substr(0, space);
    const absl::string_view right = merge.substr(space + 1);
    joined = absl::StrCat(left, right);
    const auto left_id = ids.find(left);
    const auto right_id = ids.find(right);
    const auto result_id = ids.find(joined);
    if (left_id == ids.end() || right_id == ids.end() || result_id == ids.end()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.merges[", rank, "] = \"", merge,
                                                     "\": a half or the whole is not in tokenizer.ggml.tokens"));
    }
    if (IsControl(left_id->second) || IsControl(right_id->second) || IsControl(result_id->second)) continue;
    merges_.Add(left_id->second, right_id->second, result_id->second);
  }
  return absl::OkStatus();
}

absl::Status BpeTokenizer::EncodeText(absl::string_view text, std::vector<TokenId>* out) const {
  std::vector<absl::string_view> pieces;
  RETURN_IF_ERROR(pre_tokenizer_->Split(text, &pieces));
  std::vector<TokenId> symbols;
  for (const absl::string_view piece : pieces) {
    if (!whole_pieces_.empty()) {
      const auto it = whole_pieces_.find(piece);
      if (it != whole_pieces_.end()) {
        out->push_back(it->second);
        continue;
      }
    }
    symbols.clear();
    for (const char c : piece) {
      const TokenId id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) symbols.push_back(id);
    }
    merges_.Apply(symbols, out);
  }
  return absl::OkStatus();
}

}  // namespace dunlin::model
