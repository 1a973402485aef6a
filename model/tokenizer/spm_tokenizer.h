// The SentencePiece-style tokenizer (tokenizer.ggml.model = "llama"): start from code points, keep merging the adjacent
// pair whose text is the token of the best score (the leftmost among equals), spell what is no token by byte tokens.
// Thread-safety, errors: as tokenizer.h.  Owns: tables copied from the vocabulary.
// Cost: O(n log n) for n bytes between two special tokens.
// Source: Kudo & Richardson 2018 (SentencePiece, BPE mode with byte fallback). U+2581, which stands for a space in the
// vocabulary, is turned back into one at load and in the text, so here both are plain spaces.
#ifndef DUNLIN_MODEL_TOKENIZER_SPM_TOKENIZER_H_
#define DUNLIN_MODEL_TOKENIZER_SPM_TOKENIZER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/vocabulary.h"
#include "model/tokenizer/vocabulary_tokenizer.h"

namespace dunlin::model {

class SpmTokenizer final : public VocabularyTokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(const Vocabulary& vocabulary);
  bool strips_leading_space() const override { return add_space_prefix_; }

 protected:
  absl::Status EncodeText(absl::string_view text, std::vector<TokenId>* out) const override;

 private:
  // A token that text can merge into. Unused tokens take part in merging but come apart again at the end.
  struct Piece {
    TokenId id;
    uint32_t order;  // ascending = score descending
    bool unused;
  };
  struct Merger;  // the state of one EncodeText

  SpmTokenizer() = default;
  absl::Status AddPieces(const Vocabulary& vocabulary);
  // nullptr when the text is no piece.
  const Piece* FindPiece(absl::string_view text) const;

  absl::flat_hash_map<absl::string_view, Piece> pieces_;  // views into bytes()
  size_t longest_piece_bytes_ = 0;
  std::array<TokenId, 256> byte_ids_ = {};
  bool add_space_prefix_ = true;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_SPM_TOKENIZER_H_
