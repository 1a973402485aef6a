#include "model/tokenizer/tokenizer.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/tokenizer/bpe_tokenizer.h"
#include "model/tokenizer/spm_tokenizer.h"
#include "model/tokenizer/vocabulary.h"

namespace dunlin::model {

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateTokenizer(const Vocabulary& vocabulary) {
  if (vocabulary.model == "gpt2") return BpeTokenizer::Create(vocabulary);
  if (vocabulary.model == "llama") return SpmTokenizer::Create(vocabulary);
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.ggml.model = \"", vocabulary.model,
                   "\": unknown tokenizer; known: gpt2 (byte-level BPE), llama (SentencePiece)"));
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Create(const Gguf& gguf) {
  ASSIGN_OR_RETURN(const Vocabulary vocabulary, ReadVocabulary(gguf));
  return CreateTokenizer(vocabulary);
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(absl::string_view text, const EncodeOptions& options) const {
  const TextSegment segment = {std::string(text), options.parse_special};
  return EncodeSegments({&segment, 1}, options.add_special);
}

}  // namespace dunlin::model
