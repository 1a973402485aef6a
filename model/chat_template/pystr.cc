#include "model/chat_template/pystr.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "absl/strings/charconv.h"
#include "absl/strings/str_cat.h"
#include "model/chat_template/unicode_tables.h"

namespace dunlin::model::jinja {
namespace {

template <typename Run>
const Run* FindRun(const Run* runs, size_t size, uint32_t c) {
  const Run* run = std::upper_bound(runs, runs + size, c, [](uint32_t v, const Run& r) { return v < r.first; });
  if (run == runs) return nullptr;
  --run;
  return c <= run->last && (c - run->first) % run->stride == 0 ? run : nullptr;
}

Mapped MapCase(uint32_t c, const CaseRun* runs, size_t num_runs, const CaseExpansion* many, size_t num_many) {
  if (const CaseRun* run = FindRun(runs, num_runs, c)) {
    return {{static_cast<uint32_t>(static_cast<int32_t>(c) + run->delta), 0, 0}, 1};
  }
  const CaseExpansion* end = many + num_many;
  const CaseExpansion* it =
      std::lower_bound(many, end, c, [](const CaseExpansion& e, uint32_t v) { return e.code_point < v; });
  if (it == end || it->code_point != c) return {{c, 0, 0}, 1};
  Mapped out{{it->to[0], it->to[1], it->to[2]}, 1};
  while (out.count < 3 && out.to[out.count] != 0) ++out.count;
  return out;
}

}  // namespace

CodePoint Decode(absl::string_view s, size_t pos) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(s[pos + i])); };
  const uint32_t b0 = byte(0);
  if (b0 < 0x80) return {b0, 1};
  size_t size = 0;
  uint32_t value = 0, least = 0;
  if (b0 >= 0xC2 && b0 <= 0xDF) {
    size = 2, value = b0 & 0x1F, least = 0x80;
  } else if (b0 >= 0xE0 && b0 <= 0xEF) {
    size = 3, value = b0 & 0x0F, least = 0x800;
  } else if (b0 >= 0xF0 && b0 <= 0xF4) {
    size = 4, value = b0 & 0x07, least = 0x10000;
  }
  if (size == 0 || pos + size > s.size()) return {0xFFFD, 1};
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, 1};
    value = value << 6 | (byte(i) & 0x3F);
  }
  if (value < least || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return {0xFFFD, 1};
  return {value, size};
}

size_t PointBefore(absl::string_view s, size_t end) {
  for (size_t back = 1; back <= 4 && back <= end; ++back) {
    if ((static_cast<unsigned char>(s[end - back]) & 0xC0) == 0x80) continue;
    return Decode(s.substr(0, end), end - back).size == back ? end - back : end - 1;
  }
  return end - 1;
}

void AppendUtf8(uint32_t c, std::string* out) {
  const auto put = [out](uint32_t b) { out->push_back(static_cast<char>(static_cast<unsigned char>(b))); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

bool IsValidUtf8(absl::string_view s) {
  for (size_t i = 0; i < s.size();) {
    const CodePoint p = Decode(s, i);
    if (p.value == 0xFFFD && p.size == 1) return false;
    i += p.size;
  }
  return true;
}

bool IsAscii(absl::string_view s) {
  return std::all_of(s.begin(), s.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

size_t CountPoints(absl::string_view s) {
  size_t n = 0;
  for (size_t i = 0; i < s.size(); i += Decode(s, i).size) ++n;
  return n;
}

size_t OffsetOfPoint(absl::string_view s, size_t n) {
  size_t i = 0;
  for (; n > 0 && i < s.size(); --n) i += Decode(s, i).size;
  return i;
}

bool IsSpace(uint32_t c) { return FindRun(kSpace, kSpaceSize, c) != nullptr; }
bool IsAlpha(uint32_t c) { return FindRun(kAlpha, kAlphaSize, c) != nullptr; }
bool IsDecimal(uint32_t c) { return FindRun(kDecimal, kDecimalSize, c) != nullptr; }
bool IsDigit(uint32_t c) { return FindRun(kDigit, kDigitSize, c) != nullptr; }
bool IsNumeric(uint32_t c) { return FindRun(kNumeric, kNumericSize, c) != nullptr; }
bool IsUpper(uint32_t c) { return FindRun(kUpper, kUpperSize, c) != nullptr; }
bool IsLower(uint32_t c) { return FindRun(kLower, kLowerSize, c) != nullptr; }
bool IsPrintable(uint32_t c) { return FindRun(kUnprintable, kUnprintableSize, c) == nullptr; }
Mapped ToUpper(uint32_t c) { return MapCase(c, kToUpper, kToUpperSize, kToUpperMany, kToUpperManySize); }
Mapped ToLower(uint32_t c) { return MapCase(c, kToLower, kToLowerSize, kToLowerMany, kToLowerManySize); }

size_t FindText(absl::string_view haystack, absl::string_view needle, size_t from) {
  if (from > haystack.size() || needle.size() > haystack.size() - from) return absl::string_view::npos;
  // Short needles: the plain search is at most needle.size() times slower than linear, and fast in practice.
  if (needle.size() <= 16) return haystack.find(needle, from);
  // Knuth-Morris-Pratt: border[i] = length of the longest proper border of needle[0, i).
  std::vector<size_t> border(needle.size() + 1, 0);
  for (size_t i = 1, k = 0; i < needle.size(); ++i) {
    while (k > 0 && needle[i] != needle[k]) k = border[k];
    if (needle[i] == needle[k]) ++k;
    border[i + 1] = k;
  }
  for (size_t i = from, k = 0; i < haystack.size(); ++i) {
    while (k > 0 && haystack[i] != needle[k]) k = border[k];
    if (haystack[i] == needle[k]) ++k;
    if (k == needle.size()) return i + 1 - k;
  }
  return absl::string_view::npos;
}

bool ReadDouble(absl::string_view s, double* out) {
  const absl::from_chars_result result = absl::from_chars(s.data(), s.data() + s.size(), *out);
  if (s.empty() || result.ptr != s.data() + s.size() || result.ec == std::errc::invalid_argument) return false;
  // Abseil gives the largest double when the number is too large, and about 0 when it is too small.
  if (result.ec == std::errc::result_out_of_range && std::abs(*out) > 1) *out = std::copysign(HUGE_VAL, *out);
  return true;
}

std::string FloatRepr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), d, std::chars_format::scientific).ptr;
  // "-d.ddde[+-]xx": take it apart and lay the digits out as Python does.
  std::string text(buffer, end);
  const std::string sign = text[0] == '-' ? "-" : "";
  const size_t e = text.find('e');
  const int exponent = std::atoi(text.c_str() + e + 1);
  std::string digits;
  for (char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    const std::string mantissa = count == 1 ? digits : absl::StrCat(digits.substr(0, 1), ".", digits.substr(1));
    const int magnitude = std::abs(exponent);
    return absl::StrCat(sign, mantissa, exponent < 0 ? "e-" : "e+", magnitude < 10 ? "0" : "", magnitude);
  }
  if (exponent < 0) return absl::StrCat(sign, "0.", std::string(static_cast<size_t>(-exponent - 1), '0'), digits);
  if (exponent >= count - 1) {
    return absl::StrCat(sign, digits, std::string(static_cast<size_t>(exponent - count + 1), '0'), ".0");
  }
  const size_t point = static_cast<size_t>(exponent) + 1;
  return absl::StrCat(sign, digits.substr(0, point), ".", digits.substr(point));
}

}  // namespace dunlin::model::jinja
