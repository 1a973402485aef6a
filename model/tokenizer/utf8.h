// UTF-8 as the tokenizers need it: is this text valid, and where does one sequence end.
// Thread-safety: pure functions.  Errors: none.  Cost: O(bytes).
// Source: Unicode 15 §3.9 table 3-7 and its "substitution of maximal subparts"; the WHATWG decoder replaces the same
// way.
#ifndef DUNLIN_MODEL_TOKENIZER_UTF8_H_
#define DUNLIN_MODEL_TOKENIZER_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace dunlin::model {

inline constexpr absl::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

enum class Utf8Kind {
  kValid,       // the first `length` bytes are one code point
  kInvalid,     // the first `length` bytes are a maximal subpart of no code point: one U+FFFD stands for them
  kIncomplete,  // all bytes together may still become a code point; `length` is all of them
};

struct Utf8Sequence {
  Utf8Kind kind;
  size_t length;  // 1..4
};

// What `bytes` (not empty) starts with.
Utf8Sequence ScanUtf8(absl::string_view bytes);

// Where the first invalid sequence starts; npos when `text` is valid UTF-8.
size_t FindInvalidUtf8(absl::string_view text);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_UTF8_H_
