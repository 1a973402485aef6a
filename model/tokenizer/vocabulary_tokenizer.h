// What every tokenizer does the same way: the tables of a vocabulary, and a text of segments cut at its special tokens.
// Thread-safety, errors: as tokenizer.h.  Owns: the bytes of every token.  Cost: O(bytes) beside EncodeText.
// Source: ours; the order (user-defined and trusted control tokens first, the text between them after) is the published
// one.
#ifndef DUNLIN_MODEL_TOKENIZER_VOCABULARY_TOKENIZER_H_
#define DUNLIN_MODEL_TOKENIZER_VOCABULARY_TOKENIZER_H_

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/special_tokens.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocabulary.h"

namespace dunlin::model {

// The longest text one call encodes: symbol positions are 32-bit, and 64 MiB is far beyond any context.
inline constexpr size_t kMaxTextBytes = size_t{64} << 20;

class VocabularyTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<TokenId>> EncodeSegments(std::span<const TextSegment> segments,
                                                      bool add_special) const override;
  absl::string_view TokenBytes(TokenId id, bool special_text) const override;

 protected:
  // `bytes`: each token's text as it is matched in a text and printed. `default_add_bos` holds when the file is silent
  // and names a BOS. kInvalidArgument when ids are out of range or a special token's text is not UTF-8.
  absl::Status Init(const Vocabulary& vocabulary, std::vector<std::string> bytes, bool default_add_bos);

  // Appends the tokens of `text`: valid UTF-8, not empty, a whole stretch between two special tokens (or the input's
  // ends).
  virtual absl::Status EncodeText(absl::string_view text, std::vector<TokenId>* out) const = 0;

  const std::vector<std::string>& bytes() const { return bytes_; }

 private:
  void CollectEndOfGeneration(const Vocabulary& vocabulary);

  std::vector<std::string> bytes_;  // [vocab_size]
  SpecialTokens special_tokens_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_VOCABULARY_TOKENIZER_H_
