// Filters that make numbers: abs, int, float, round.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

absl::StatusOr<Value> Abs(Env&, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("abs", args, {}).status());
  if (v.is(Type::kFloat)) return Value::Float(std::abs(v.number()));
  if (v.is(Type::kBigInt)) return v.digits()[0] == '-' ? Value::BigInt(v.digits().substr(1)) : v;
  if (v.is_integer()) return v.integer() < 0 ? Negate(v) : Value::Int(v.integer());
  if (v.is_undefined()) return UndefinedError(v);
  return Invalid(absl::StrCat("bad operand type for abs(): '", TypeName(v), "'"));
}

// Whitespace around a number goes, and single underscores between digits. False when an underscore is elsewhere.
bool Tidy(absl::string_view s, std::string* out) {
  size_t begin = 0, end = s.size();
  while (begin < end && IsSpace(Decode(s, begin).value)) begin += Decode(s, begin).size;
  while (end > begin && IsSpace(Decode(s, PointBefore(s, end)).value)) end = PointBefore(s, end);
  const auto is_alnum = [&](size_t i) { return i < end && absl::ascii_isalnum(static_cast<unsigned char>(s[i])); };
  for (size_t i = begin; i < end; ++i) {
    if (s[i] != '_') {
      out->push_back(s[i]);
    } else if (i == begin || !is_alnum(i - 1) || !is_alnum(i + 1)) {
      return false;
    }
  }
  return !out->empty();
}

// Decimal digits as the smallest kind of integer that holds them.
Value BigOrInt(std::string digits) {
  int64_t small = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), small);
  return result.ec == std::errc() ? Value::Int(small) : Value::BigInt(std::move(digits));
}

// int(text, base): false when the text is not such a number.
bool ParseInt(absl::string_view text, int base, Value* out) {
  std::string digits;
  if (text.size() > 4300 || !Tidy(text, &digits)) return false;
  const bool negative = digits[0] == '-';
  if (negative || digits[0] == '+') digits.erase(0, 1);
  const auto prefixed = [&](char letter) {
    return digits.size() > 2 && digits[0] == '0' &&
           absl::ascii_tolower(static_cast<unsigned char>(digits[1])) == letter;
  };
  const int implied = prefixed('x') ? 16 : prefixed('o') ? 8 : prefixed('b') ? 2 : 0;
  if (implied != 0 && (base == 0 || base == implied)) digits.erase(0, 2);
  if (base == 0) base = implied != 0 ? implied : 10;
  uint64_t magnitude = 0;
  const char* end = digits.data() + digits.size();
  const auto result = std::from_chars(digits.data(), end, magnitude, base);
  if (digits.empty() || result.ptr != end) return false;
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (result.ec == std::errc::result_out_of_range || magnitude > kMax + (negative ? 1 : 0)) {
    if (base != 10) return false;
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
    *out = Value::BigInt(absl::StrCat(negative ? "-" : "", digits));
    return true;
  }
  *out = Value::Int(negative ? static_cast<int64_t>(0 - magnitude) : static_cast<int64_t>(magnitude));
  return result.ec == std::errc();
}

bool ParseFloat(absl::string_view text, double* out) {
  std::string digits;
  if (text.size() > 4300 || !Tidy(text, &digits)) return false;
  absl::string_view s = digits;
  if (absl::ConsumePrefix(&s, "+") && (s.empty() || s[0] == '-' || s[0] == '+')) return false;
  const std::string word = absl::AsciiStrToLower(absl::StripPrefix(s, "-"));
  if (word.find_first_of("(x") != std::string::npos) return false;  // nan(...) and hexadecimal are C's, not Python's
  return ReadDouble(s, out);
}

// int(number): towards zero, however large; false for infinities and NaN.
bool IntOfFloat(double d, Value* out) {
  if (!std::isfinite(d)) return false;
  if (std::abs(d) < 9.2e18) {
    *out = Value::Int(static_cast<int64_t>(d));
    return true;
  }
  char buffer[400];  // the largest double has 309 digits
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), d, std::chars_format::fixed, 0).ptr;
  *out = BigOrInt(std::string(buffer, end));
  return true;
}

absl::StatusOr<Value> Int(Env&, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("int", args, {"default", "base"}));
  if (v.is_undefined()) return UndefinedError(v);
  if (v.is_integer()) return Value::Int(v.integer());
  if (v.is(Type::kBigInt)) return v;
  int64_t base = 10;
  if (!a[1].is_undefined()) {
    ASSIGN_OR_RETURN(base, AsInt(a[1]));
  }
  if (base != 0 && (base < 2 || base > 36)) return Invalid("int() base must be >= 2 and <= 36, or 0");
  Value out;
  double number = 0;
  bool known = v.is(Type::kFloat);
  if (known) number = v.number();
  if (v.is_string()) {
    if (ParseInt(v.text().view(), static_cast<int>(base), &out)) return out;
    known = ParseFloat(v.text().view(), &number);
  }
  if (known && IntOfFloat(number, &out)) return out;
  return a[0].is_undefined() ? Value::Int(0) : a[0];
}

absl::StatusOr<Value> Float(Env&, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("float", args, {"default"}));
  if (v.is_undefined()) return UndefinedError(v);
  if (v.is_number()) return Value::Float(v.number());
  double number = 0;
  if (v.is_string() && ParseFloat(v.text().view(), &number)) return Value::Float(number);
  if (v.is(Type::kBigInt) && ParseFloat(v.digits(), &number)) return Value::Float(number);
  return a[0].is_undefined() ? Value::Float(0) : a[0];
}

// round(x, digits) of Python: half to even on the exact decimal value, which printing with that many digits also does.
double RoundDecimal(double d, int digits) {
  if (!std::isfinite(d) || digits > 22 + 300) return d;
  if (digits < 0) {
    const double scale = std::pow(10.0, -digits);
    return std::isfinite(scale) ? std::nearbyint(d / scale) * scale : 0.0;
  }
  const std::string text = [&] {
    char buffer[700];
    const auto end = std::to_chars(buffer, buffer + sizeof(buffer), d, std::chars_format::fixed, digits).ptr;
    return std::string(buffer, end);
  }();
  double out = 0;
  ReadDouble(text, &out);
  return out;
}

absl::StatusOr<Value> Round(Env&, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("round", args, {"precision", "method"}));
  if (v.is_undefined()) return UndefinedError(v);
  if (v.is(Type::kBigInt) && a[0].is_undefined()) return v;
  if (!v.is_number()) return Invalid(absl::StrCat("type ", TypeName(v), " doesn't define __round__ method"));
  int64_t precision = 0;
  if (!a[0].is_undefined()) {
    ASSIGN_OR_RETURN(precision, AsInt(a[0]));
  }
  const std::string method = a[1].is_string() ? a[1].text().bytes() : "common";
  const int digits = static_cast<int>(std::clamp<int64_t>(precision, -400, 400));
  if (method == "common") {
    if (!v.is_integer()) return Value::Float(RoundDecimal(v.number(), digits));
    if (digits >= 0) return Value::Int(v.integer());
    const double rounded = RoundDecimal(v.number(), digits);
    if (!(std::abs(rounded) < 9.2e18)) return Invalid("an integer result does not fit in 64 bits");
    return Value::Int(static_cast<int64_t>(rounded));
  }
  if (method != "ceil" && method != "floor") return Invalid("method must be common, ceil or floor");
  const double scale = std::pow(10.0, digits);
  const double scaled = v.number() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

constexpr FilterRow kRows[] = {{"abs", Abs}, {"int", Int}, {"float", Float}, {"round", Round}};

}  // namespace

Filter FindNumberFilter(absl::string_view name) { return LookUp(kRows, name); }

}  // namespace dunlin::model::jinja
