// Text the way Python sees it: code points, character classes, case, repr of floats (private to the interpreter).
// Thread-safety: pure functions.  Units: offsets and sizes are bytes of UTF-8 unless a name says `points`.
// Bytes that are not UTF-8 count as one code point each (U+FFFD) and are copied unchanged.
// Cost: linear in the text; class and case look-ups are a binary search over a few hundred runs.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_PYSTR_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_PYSTR_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace dunlin::model::jinja {

struct CodePoint {
  uint32_t value;
  size_t size;  // bytes it takes, >= 1
};
// The code point at `pos` < s.size().
CodePoint Decode(absl::string_view s, size_t pos);
// Where the code point that ends at `end` > 0 begins.
size_t PointBefore(absl::string_view s, size_t end);
void AppendUtf8(uint32_t code_point, std::string* out);
bool IsValidUtf8(absl::string_view s);
bool IsAscii(absl::string_view s);
size_t CountPoints(absl::string_view s);
// Byte offset of the n-th code point; s.size() when there are fewer.
size_t OffsetOfPoint(absl::string_view s, size_t n);

bool IsSpace(uint32_t c);
bool IsAlpha(uint32_t c);
bool IsDecimal(uint32_t c);
bool IsDigit(uint32_t c);
bool IsNumeric(uint32_t c);
bool IsUpper(uint32_t c);
bool IsLower(uint32_t c);
bool IsPrintable(uint32_t c);

// Full case mapping of one code point: up to three come out.
struct Mapped {
  uint32_t to[3];
  int count;
};
Mapped ToUpper(uint32_t c);
Mapped ToLower(uint32_t c);

// First position >= from where needle occurs, npos when none. Linear time whatever the texts are.
size_t FindText(absl::string_view haystack, absl::string_view needle, size_t from);

// A decimal number that fills `s`; too large ones become infinite, as in Python. False when `s` is not a number.
bool ReadDouble(absl::string_view s, double* out);

// repr(float): the shortest digits that read back the same; "inf", "-inf", "nan".
std::string FloatRepr(double d);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_PYSTR_H_
