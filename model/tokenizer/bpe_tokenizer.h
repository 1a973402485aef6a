// Byte-level BPE (tokenizer.ggml.model = "gpt2"): pieces by regular expression, one symbol per byte, ranked merges.
// Thread-safety, errors: as tokenizer.h.  Owns: tables copied from the vocabulary.
// Cost: O(bytes) for text, O(n log n) for one piece of n bytes.
// Source: GPT-2's published tokenizer. A byte without a token is dropped before merging, as its reference does.
// Ordinary text never becomes a control token: rules that would make one are left out.
#ifndef DUNLIN_MODEL_TOKENIZER_BPE_TOKENIZER_H_
#define DUNLIN_MODEL_TOKENIZER_BPE_TOKENIZER_H_

#include <array>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/bpe_merges.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/vocabulary.h"
#include "model/tokenizer/vocabulary_tokenizer.h"

namespace dunlin::model {

class BpeTokenizer final : public VocabularyTokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(const Vocabulary& vocabulary);
  bool strips_leading_space() const override { return false; }

 protected:
  absl::Status EncodeText(absl::string_view text, std::vector<TokenId>* out) const override;

 private:
  BpeTokenizer() = default;
  absl::Status AddMerges(const Vocabulary& vocabulary);

  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  std::array<TokenId, 256> byte_ids_ = {};  // -1 = the vocabulary lacks the byte
  BpeMerges merges_;
  absl::flat_hash_map<absl::string_view, TokenId> whole_pieces_;  // views into bytes(); empty unless ignore_merges
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_BPE_TOKENIZER_H_
