// The GPT-2 spelling of bytes: every byte is written as one printable character, so that a vocabulary can be text.
// Thread-safety: pure functions.  Errors: none.  Cost: O(bytes).
// Source: GPT-2's published byte encoder; printable Latin-1 bytes stand for themselves, the other 68 become U+0100 and
// up.
#ifndef DUNLIN_MODEL_TOKENIZER_BYTE_LEVEL_H_
#define DUNLIN_MODEL_TOKENIZER_BYTE_LEVEL_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace dunlin::model {

// The character (UTF-8, one or two bytes) that spells `byte`.
absl::string_view ByteSpelling(uint8_t byte);

// The bytes that `spelling` stands for. A text with any character outside the spelling stands for itself, as in the
// published decoder.
std::string BytesOfSpelling(absl::string_view spelling);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_BYTE_LEVEL_H_
