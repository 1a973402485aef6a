// Unicode properties as sorted runs of code points (private to the chat template interpreter).
// Thread-safety: constant data.  Source: the Unicode database of Python 3.11, by gen_unicode_tables.py.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_UNICODE_TABLES_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_UNICODE_TABLES_H_

#include <cstddef>
#include <cstdint>

namespace dunlin::model::jinja {

struct CodePointRun {
  uint32_t first, last;  // both inclusive
  uint32_t stride;       // 1, or 2 for every other code point
};
struct CaseRun {
  uint32_t first, last, stride;
  int32_t delta;  // mapped code point - code point
};
struct CaseExpansion {
  uint32_t code_point;
  uint32_t to[3];  // zero-terminated unless three long
};

extern const CodePointRun kAlpha[], kDecimal[], kDigit[], kNumeric[], kUpper[], kLower[], kSpace[], kUnprintable[];
extern const size_t kAlphaSize, kDecimalSize, kDigitSize, kNumericSize, kUpperSize, kLowerSize, kSpaceSize,
    kUnprintableSize;
extern const CaseRun kToUpper[], kToLower[];
extern const size_t kToUpperSize, kToLowerSize;
extern const CaseExpansion kToUpperMany[], kToLowerMany[];
extern const size_t kToUpperManySize, kToLowerManySize;

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_UNICODE_TABLES_H_
