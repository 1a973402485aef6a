#include "model/tokenizer/spm_tokenizer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/tokenizer/utf8.h"

namespace dunlin::model {
namespace {

constexpr char kSpaceSymbol[] = "\xE2\x96\x81";  // U+2581

// The byte that "<0x41>" spells; -1 for any other text.
int ByteOfToken(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int byte = 0;
  for (const char c : token.substr(3, 2)) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && !(c >= 'A' && c <= 'F')) return -1;
    byte = byte * 16 + (digit ? c - '0' : c - 'A' + 10);
  }
  return byte;
}

// Numbers that compare as the scores do, the other way round. Not for NaN.
uint32_t DescendingOrder(float score) {
  const auto bits = std::bit_cast<uint32_t>(score == 0.0f ? 0.0f : score);  // -0 and 0 are one score
  constexpr uint32_t kSign = 0x80000000u;
  const uint32_t ascending = (bits & kSign) != 0 ? ~bits : bits | kSign;
  return ~ascending;
}

std::vector<std::string> TokenTexts(const Vocabulary& vocabulary) {
  std::vector<std::string> texts;
  texts.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& token = vocabulary.tokens[i];
    const TokenType type = vocabulary.type(static_cast<TokenId>(i));
    const int byte = type == TokenType::kByte ? ByteOfToken(token) : -1;
    if (byte >= 0) {
      texts.emplace_back(1, static_cast<char>(byte));
    } else {
      texts.push_back(IsSpecial(type) ? token : absl::StrReplaceAll(token, {{kSpaceSymbol, " "}}));
    }
  }
  return texts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> SpmTokenizer::Create(const Vocabulary& vocabulary) {
  if (vocabulary.remove_extra_whitespaces) {
    return absl::UnimplementedError(
        "tokenizer.ggml.remove_extra_whitespaces = true is not supported by the llama tokenizer");
  }
  auto result = absl::WrapUnique(new SpmTokenizer);
  result->add_space_prefix_ = vocabulary.add_space_prefix.value_or(true);
  RETURN_IF_ERROR(result->Init(vocabulary, TokenTexts(vocabulary), /*default_add_bos=*/true));
  RETURN_IF_ERROR(result->AddPieces(vocabulary));
  return std::unique_ptr<const Tokenizer>(std::move(result));
}

absl::Status SpmTokenizer::AddPieces(const Vocabulary& vocabulary) {
  if (vocabulary.scores.size() != vocabulary.tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.scores: ", vocabulary.scores.size(), " entries for ",
                                                   vocabulary.tokens.size(), " tokens"));
  }
  byte_ids_.fill(-1);
  for (TokenId id = 0; id < vocab_size(); ++id) {
    const auto index = static_cast<size_t>(id);
    const TokenType type = vocabulary.type(id);
    const float score = vocabulary.scores[index];
    if (std::isnan(score)) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.scores[", id, "] is not a number"));
    }
    if (type == TokenType::kByte) {
      const int byte = ByteOfToken(vocabulary.tokens[index]);
      if (byte < 0) {
        return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens[", id, "] = \"", vocabulary.tokens[index],
                                                       "\": a byte token is written as <0x00> to <0xFF>"));
      }
      if (byte_ids_[static_cast<size_t>(byte)] < 0) byte_ids_[static_cast<size_t>(byte)] = id;
      continue;
    }
    const std::string& text = bytes()[index];
    // Ordinary text never merges into a control token. Of two tokens with one text the lower id is meant.
    if (IsSpecial(type) || text.empty()) continue;
    pieces_.try_emplace(text, Piece{id, DescendingOrder(score), type == TokenType::kUnused});
    longest_piece_bytes_ = std::max(longest_piece_bytes_, text.size());
  }
  for (size_t byte = 0; byte < byte_ids_.size(); ++byte) {
    if (byte_ids_[byte] < 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tokenizer.ggml.tokens: no byte token <0x%02X>; the llama tokenizer needs all 256", byte));
    }
  }
  return absl::OkStatus();
}

const SpmTokenizer::Piece* SpmTokenizer::FindPiece(absl::string_view text) const {
  if (text.size() > longest_piece_bytes_) return nullptr;
  const auto it = pieces_.find(text);
  return it == pieces_.end() ? nullptr : &it->second;
}

// Symbols are named by the byte they start at; positions are 32-bit as kMaxTextBytes allows.
struct SpmTokenizer::Merger {
  struct Candidate {
    uint64_t order;  // score, then position: the order of merging
    uint32_t bytes;  // of both symbols together; tells whether either has merged since
    bool unused;
    bool operator>(const Candidate& other) const { return order > other.order; }
  };

  Merger(const SpmTokenizer& owner, absl::string_view whole)
      : tokenizer(owner), text(whole), size(static_cast<uint32_t>(whole.size())), length(size), previous(size) {
    for (uint32_t at = 0, last = size; at < size; at += length[at]) {
      length[at] = static_cast<uint32_t>(ScanUtf8(text.substr(at)).length);
      previous[at] = last;
      last = at;
    }
    for (uint32_t at = 0; at < size; at += length[at]) AddCandidate(at);
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
  }

  // The pair that starts at `left`; false when it is no piece.
  bool AddCandidate(uint32_t left) {
    const uint32_t right = left + length[left];
    if (right == size) return false;
    const uint32_t both = length[left] + length[right];
    const Piece* piece = tokenizer.FindPiece(text.substr(left, both));
    if (piece == nullptr) return false;
    heap.push_back({uint64_t{piece->order} << 32 | left, both, piece->unused});
    return true;
  }

  void PushCandidate(uint32_t left) {
    if (AddCandidate(left)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }

  void Run() {
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      const Candidate top = heap.back();
      heap.pop_back();
      const auto left = static_cast<uint32_t>(top.order);
      const uint32_t right = left + length[left];
      if (length[left] == 0 || right == size || length[left] + length[right] != top.bytes) continue;
      if (top.unused) unused_left_bytes.insert_or_assign(text.substr(left, top.bytes), length[left]);
      length[left] = top.bytes;
      length[right] = 0;
      const uint32_t after = left + top.bytes;
      if (after != size) previous[after] = left;
      PushCandidate(left);
      if (previous[left] != size) PushCandidate(previous[left]);
    }
  }

  void Emit(std::vector<TokenId>* out) const {
    std::vector<absl::string_view> stack;
    for (uint32_t at = 0; at < size; at += length[at]) {
      stack.push_back(text.substr(at, length[at]));
      while (!stack.empty()) {
        const absl::string_view symbol = stack.back();
        stack.pop_back();
        const Piece* piece = tokenizer.FindPiece(symbol);
        const auto split = piece != nullptr && piece->unused ? unused_left_bytes.find(symbol) : unused_left_bytes.end();
        if (split != unused_left_bytes.end()) {
          stack.push_back(symbol.substr(split->second));
          stack.push_back(symbol.substr(0, split->second));
        } else if (piece != nullptr) {
          out->push_back(piece->id);
        } else {
          for (const char c : symbol) out->push_back(tokenizer.byte_ids_[static_cast<uint8_t>(c)]);
        }
      }
    }
  }

  const SpmTokenizer& tokenizer;
  const absl::string_view text;
  const uint32_t size;
  std::vector<uint32_t> length;    // [size]; of the symbol that starts here; 0 = merged into its left neighbour
  std::vector<uint32_t> previous;  // [size]; where the symbol before starts; `size` = none
  std::vector<Candidate> heap;
  absl::flat_hash_map<absl::string_view, uint32_t>
      unused_left_bytes;  // how a merge that made an unused token came about
};

absl::Status SpmTokenizer::EncodeText(absl::string_view text, std::vector<TokenId>* out) const {
  const std::string plain =
      absl::StrCat(add_space_prefix_ ? " " : "", absl::StrReplaceAll(text, {{kSpaceSymbol, " "}}));
  Merger merger(*this, plain);
  merger.Run();
  merger.Emit(out);
  return absl::OkStatus();
}

}  // namespace dunlin::model
