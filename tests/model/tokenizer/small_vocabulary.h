// Two hand-made vocabularies, one per tokenizer model, for tests and the fuzz target. Both have all 256 bytes.
// Thread-safety: pure functions.
#ifndef DUNLIN_TESTS_MODEL_TOKENIZER_SMALL_VOCABULARY_H_
#define DUNLIN_TESTS_MODEL_TOKENIZER_SMALL_VOCABULARY_H_

#include "absl/strings/string_view.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocabulary.h"

namespace dunlin::testing {

// "gpt2" with pre-tokenizer `pre`. Ids 0-255 are the bytes 0-255; then control <|start|>, <|im_end|>, <|im_end|>more,
// user-defined <tool>, then the results of the merges in order. BOS = <|start|> without add_bos, EOS = <|im_end|>more.
model::Vocabulary SmallBpeVocabulary(absl::string_view pre);
inline constexpr model::TokenId kBpeStart = 256;
inline constexpr model::TokenId kBpeEnd = 257;
inline constexpr model::TokenId kBpeEndMore = 258;
inline constexpr model::TokenId kBpeTool = 259;
inline constexpr model::TokenId kBpeFirstMerge = 260;

// "llama". Ids: 0 <unk>, 1 <s>, 2 </s>, 3-258 the bytes, 259 user-defined <tool>, then pieces; add_bos as the model
// defaults.
model::Vocabulary SmallSpmVocabulary();
inline constexpr model::TokenId kSpmFirstByte = 3;
inline constexpr model::TokenId kSpmTool = 259;

// The id of `text` in `vocabulary`, spelled as there; -1 when absent.
model::TokenId IdOf(const model::Vocabulary& vocabulary, absl::string_view text);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_MODEL_TOKENIZER_SMALL_VOCABULARY_H_
