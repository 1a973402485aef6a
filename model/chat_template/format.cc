#include "model/chat_template/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

constexpr int64_t kMaxPrecision = 500;

struct Spec {
  std::string fill = " ";
  bool fill_input = false;  // the fill character stands in client text
  char align = 0;           // '<' '>' '^' '=' or 0
  char sign = '-';
  bool comma = false;
  bool alternate = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

absl::Status Unsupported(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat("format ", what, " is not supported"));
}

// Digits at s[*at...]; at most nine, so that the value stays small.
int64_t ReadNumber(absl::string_view s, size_t* at) {
  int64_t n = 0;
  for (int digits = 0; *at < s.size() && absl::ascii_isdigit(static_cast<unsigned char>(s[*at])) && digits < 9;
       ++digits) {
    n = n * 10 + (s[(*at)++] - '0');
  }
  return n;
}

std::string Print(const char* format, int precision, double d) {
  char buffer[1024];  // %f of the largest double has 309 digits before the point, and the precision is bounded
  const int size = std::snprintf(buffer, sizeof(buffer), format, precision, d);
  return std::string(buffer, static_cast<size_t>(std::clamp(size, 0, static_cast<int>(sizeof(buffer)) - 1)));
}

std::string WithCommas(std::string number) {
  const size_t point = std::min(number.find_first_of(".e"), number.size());
  for (size_t at = point; at > 3;) number.insert(at -= 3, ",");
  return number;
}

// The digits of a number without its sign.
absl::StatusOr<std::string> Magnitude(const Value& v, const Spec& spec) {
  switch (spec.type) {
    case 'd':
    case 'i':
    case 'u': {
      if (v.is(Type::kBigInt)) return std::string(v.digits(), v.digits()[0] == '-' ? 1 : 0);
      if (!v.is_number()) return Invalid(absl::StrCat("%d format: a real number is required, not ", TypeName(v)));
      if (v.is(Type::kFloat) && !(std::abs(v.number()) < 9e18)) return Invalid("a float is too large for %d");
      const int64_t n = v.is(Type::kFloat) ? static_cast<int64_t>(v.number()) : v.integer();
      return absl::StrCat(n < 0 ? -static_cast<uint64_t>(n) : static_cast<uint64_t>(n));
    }
    case 'x':
    case 'X':
    case 'o': {
      if (!v.is_integer()) return Invalid(absl::StrCat("%x format: an integer is required, not ", TypeName(v)));
      const int64_t n = v.integer();
      const uint64_t u = n < 0 ? -static_cast<uint64_t>(n) : static_cast<uint64_t>(n);
      if (spec.type == 'o') return spec.alternate ? absl::StrFormat("0o%o", u) : absl::StrFormat("%o", u);
      if (spec.type == 'X') return spec.alternate ? absl::StrFormat("0X%X", u) : absl::StrFormat("%X", u);
      return spec.alternate ? absl::StrFormat("0x%x", u) : absl::StrFormat("%x", u);
    }
    default:
      break;
  }
  if (!v.is_number()) return Invalid(absl::StrCat("must be real number, not ", TypeName(v)));
  const double d = std::abs(v.number());
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(spec.precision);
  switch (spec.type) {
    case 'f':
    case 'F':
      return Print("%.*f", precision, d);
    case 'e':
      return Print("%.*e", precision, d);
    case 'E':
      return Print("%.*E", precision, d);
    case 'g':
      return Print("%.*g", precision, d);
    case 'G':
      return Print("%.*G", precision, d);
    case '%':
      return Print("%.*f", precision, d * 100) + "%";
    default:
      return Unsupported(absl::StrCat("'", std::string(1, spec.type), "'"));
  }
}

bool IsNegative(const Value& v) {
  if (v.is(Type::kBigInt)) return v.digits()[0] == '-';
  return v.is(Type::kFloat) ? std::signbit(v.number()) : v.integer() < 0;
}

void AppendPadded(const MarkedText& body, absl::string_view sign, const Spec& spec, char default_align,
                  TextBuilder* out) {
  const char align = spec.align != 0 ? spec.align : default_align;
  const int64_t length = static_cast<int64_t>(CountPoints(body.view()) + sign.size());
  const size_t pad = spec.width > length ? static_cast<size_t>(spec.width - length) : 0;
  const size_t left = align == '>' || align == '=' ? pad : align == '^' ? pad / 2 : 0;
  const MarkedText fill(spec.fill, spec.fill_input);
  if (align == '=') out->Append(sign);
  out->Repeat(fill, left);
  if (align != '=') out->Append(sign);
  out->Append(body);
  out->Repeat(fill, pad - left);
}

absl::Status AppendNumber(const Value& v, const Spec& spec, TextBuilder* out) {
  ASSIGN_OR_RETURN(std::string digits, Magnitude(v, spec));
  if (spec.comma) digits = WithCommas(std::move(digits));
  const absl::string_view sign = IsNegative(v) ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  AppendPadded(MarkedText(std::move(digits), false), sign, spec, '>', out);
  return absl::OkStatus();
}

absl::Status AppendTextField(Env& env, const MarkedText& text, const Spec& spec, char default_align, TextBuilder* out) {
  RETURN_IF_ERROR(env.Spend(text.size() / 64));
  const size_t end = spec.precision < 0 ? text.size() : OffsetOfPoint(text.view(), static_cast<size_t>(spec.precision));
  AppendPadded(text.Slice(0, end), "", spec, default_align, out);
  return absl::OkStatus();
}

// One %-conversion of `v`.
absl::Status AppendPercent(Env& env, const Value& v, const Spec& spec, TextBuilder* out) {
  if (spec.type == 's' || spec.type == 'r') {
    TextBuilder text(env);
    RETURN_IF_ERROR(spec.type == 's' ? AppendStr(env, v, &text) : AppendRepr(env, v, &text));
    ASSIGN_OR_RETURN(const Value made, text.Finish());
    return AppendTextField(env, made.text(), spec, '>', out);
  }
  if (spec.type == 'c') return Unsupported("%c");
  return AppendNumber(v, spec, out);
}

// Reads "%(name)-05.2f" from `at` (just after the %). The name, if any, is put into `name`.
absl::StatusOr<Spec> ReadPercentSpec(absl::string_view s, size_t* at, std::string* name, bool* has_name) {
  Spec spec;
  *has_name = *at < s.size() && s[*at] == '(';
  if (*has_name) {
    const size_t close = s.find(')', *at);
    if (close == absl::string_view::npos) return Invalid("incomplete format key");
    *name = std::string(s.substr(*at + 1, close - *at - 1));
    *at = close + 1;
  }
  for (; *at < s.size() && absl::string_view("-+ 0#").find(s[*at]) != absl::string_view::npos; ++*at) {
    const char flag = s[*at];
    if (flag == '-') spec.align = '<';
    if (flag == '0' && spec.align == 0) spec.align = '=', spec.fill = "0";
    if (flag == '+' || (flag == ' ' && spec.sign != '+')) spec.sign = flag;
    if (flag == '#') spec.alternate = true;
  }
  if (spec.align == '<') spec.fill = " ";
  if (*at < s.size() && s[*at] == '*') return Unsupported("'*'");
  spec.width = ReadNumber(s, at);
  if (*at < s.size() && s[*at] == '.') {
    ++*at;
    spec.precision = ReadNumber(s, at);
  }
  if (*at >= s.size()) return Invalid("incomplete format");
  spec.type = s[(*at)++];
  if ((spec.type == 's' || spec.type == 'r') && spec.fill == "0") spec.fill = " ", spec.align = '>';
  const bool is_text = spec.type == 's' || spec.type == 'r';
  if (!is_text && spec.precision > kMaxPrecision) return Unsupported("precision above 500");
  if (absl::string_view("srdiuxXofFeEgGc").find(spec.type) == absl::string_view::npos) {
    return Invalid(
        absl::StrCat("unsupported format character '", absl::CHexEscape(absl::string_view(&spec.type, 1)), "'"));
  }
  return spec;
}

}  // namespace

absl::StatusOr<Value> PercentFormat(Env& env, const MarkedText& format, const Value& values) {
  RETURN_IF_ERROR(env.Spend(format.size() / 16));
  const absl::string_view s = format.view();
  const bool is_tuple = values.is(Type::kTuple);
  const size_t available = is_tuple ? values.items().size() : 1;
  size_t used = 0;
  bool used_names = false;
  TextBuilder out(env);
  for (size_t i = 0; i < s.size() && !out.full();) {
    const size_t percent = std::min(s.find('%', i), s.size());
    out.Append(format, i, percent);
    if (percent == s.size()) break;
    i = percent + 1;
    if (i < s.size() && s[i] == '%') {
      out.Append(format, i, i + 1);
      ++i;
      continue;
    }
    RETURN_IF_ERROR(env.Spend(1));
    std::string name;
    bool has_name = false;
    ASSIGN_OR_RETURN(const Spec spec, ReadPercentSpec(s, &i, &name, &has_name));
    if (has_name) {
      if (!values.is_dict()) return Invalid("format requires a mapping");
      const Value* found = values.Find(name);
      if (found == nullptr) return Invalid(absl::StrCat("KeyError: '", name, "'"));
      used_names = true;
      RETURN_IF_ERROR(AppendPercent(env, *found, spec, &out));
      continue;
    }
    if (used == available) return Invalid("not enough arguments for format string");
    RETURN_IF_ERROR(AppendPercent(env, is_tuple ? values.items()[used] : values, spec, &out));
    ++used;
  }
  // What has a subscript counts as a mapping, which need not be used up; tuples and texts do not.
  const bool mapping = values.is_dict() || values.is(Type::kList) || values.is(Type::kRange) || values.is_undefined();
  const bool leftover = used < available && !used_names && !mapping;
  if (leftover) return Invalid("not all arguments converted during string formatting");
  return out.Finish();
}

namespace {

absl::StatusOr<Spec> ReadBraceSpec(absl::string_view s) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const size_t first = s.empty() ? 0 : Decode(s, 0).size;
  if (s.size() > first && is_align(s[first])) {
    spec.fill = std::string(s.substr(0, first));
    spec.align = s[first];
    at = first + 1;
  } else if (!s.empty() && is_align(s[0])) {
    spec.align = s[at++];
  }
  if (at < s.size() && (s[at] == '+' || s[at] == '-' || s[at] == ' ')) spec.sign = s[at++];
  if (at < s.size() && s[at] == '#') spec.alternate = true, ++at;
  if (at < s.size() && s[at] == '0' && spec.align == 0) spec.align = '=', spec.fill = "0", ++at;
  spec.width = ReadNumber(s, &at);
  if (at < s.size() && s[at] == ',') spec.comma = true, ++at;
  if (at < s.size() && s[at] == '.') spec.precision = ReadNumber(s, &++at);
  if (at < s.size()) spec.type = s[at++];
  if (at != s.size()) return Invalid("Invalid format specifier");
  if (spec.type != 0 && absl::string_view("sdfFeEgGxXo%").find(spec.type) == absl::string_view::npos) {
    return Unsupported("code in {}");
  }
  return spec;
}

absl::Status AppendBrace(Env& env, const Value& v, absl::string_view spec_text, bool input, TextBuilder* out) {
  if (spec_text.empty()) return AppendStr(env, v, out);
  ASSIGN_OR_RETURN(Spec spec, ReadBraceSpec(spec_text));
  spec.fill_input = input;
  if (v.is_string()) {
    if (spec.type != 0 && spec.type != 's') return Invalid("Unknown format code for object of type 'str'");
    return AppendTextField(env, v.text(), spec, '<', out);
  }
  if (!v.is_number() && !v.is(Type::kBigInt)) {
    return Invalid(absl::StrCat("unsupported format string passed to ", TypeName(v), ".__format__"));
  }
  if (spec.type == 's') return Invalid("Unknown format code 's' for a number");
  if (spec.precision > kMaxPrecision) return Unsupported("precision above 500");
  if (spec.type == 0 && !v.is(Type::kFloat)) spec.type = 'd';
  if (spec.type == 0 && spec.precision < 0) {  // a float as str() writes it
    const absl::string_view sign = IsNegative(v) ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
    std::string digits = FloatRepr(std::abs(v.number()));
    AppendPadded(MarkedText(spec.comma ? WithCommas(std::move(digits)) : std::move(digits), false), sign, spec, '>',
                 out);
    return absl::OkStatus();
  }
  if (spec.type == 0) return Unsupported("precision without a type");
  if (spec.type == 'd' && v.is(Type::kFloat)) return Invalid("Unknown format code 'd' for object of type 'float'");
  return AppendNumber(v, spec, out);
}

// "0.name[key]" against the arguments; `next` numbers the empty fields.
absl::StatusOr<Value> FieldValue(Env& env, absl::string_view field, const CallArgs& args, size_t* next) {
  const size_t end = std::min(field.find_first_of(".["), field.size());
  const absl::string_view name = field.substr(0, end);
  Value v;
  if (name.empty() || absl::ascii_isdigit(static_cast<unsigned char>(name[0]))) {
    size_t at = 0;
    const size_t index = name.empty() ? (*next)++ : static_cast<size_t>(ReadNumber(name, &at));
    if (index >= args.positional.size()) return Invalid("Replacement index out of range for positional args tuple");
    v = args.positional[index];
  } else {
    const auto it =
        std::find_if(args.keyword.begin(), args.keyword.end(), [&](const auto& kw) { return kw.first == name; });
    if (it == args.keyword.end()) return Invalid(absl::StrCat("KeyError: '", name, "'"));
    v = it->second;
  }
  for (size_t i = end; i < field.size();) {
    RETURN_IF_ERROR(env.Spend(1));
    const bool subscript = field[i] == '[';
    const size_t stop = std::min(subscript ? field.find(']', i) : field.find_first_of(".[", i + 1), field.size());
    if (subscript && stop == field.size()) return Invalid("expected '}' before end of string");
    const absl::string_view key = field.substr(i + 1, stop - i - 1);
    size_t at = 0;
    const bool numeric = subscript && !key.empty() && std::all_of(key.begin(), key.end(), absl::ascii_isdigit);
    ASSIGN_OR_RETURN(v, subscript ? GetItem(env, v, numeric ? Value::Int(ReadNumber(key, &at)) : Value::String(key))
                                  : GetAttr(env, v, Value::String(key)));
    i = subscript ? stop + 1 : stop;
  }
  return v;
}

}  // namespace

absl::StatusOr<Value> BraceFormat(Env& env, const MarkedText& format, const CallArgs& args) {
  RETURN_IF_ERROR(env.Spend(format.size() / 16));
  const absl::string_view s = format.view();
  TextBuilder out(env);
  size_t next = 0;
  for (size_t i = 0; i < s.size() && !out.full();) {
    const size_t brace = std::min(s.find_first_of("{}", i), s.size());
    out.Append(format, i, brace);
    if (brace == s.size()) break;
    if (brace + 1 < s.size() && s[brace + 1] == s[brace]) {
      out.Append(format, brace, brace + 1);
      i = brace + 2;
      continue;
    }
    if (s[brace] == '}') return Invalid("Single '}' encountered in format string");
    const size_t close = s.find('}', brace);
    if (close == absl::string_view::npos) return Invalid("Single '{' encountered in format string");
    absl::string_view field = s.substr(brace + 1, close - brace - 1);
    if (field.find('{') != absl::string_view::npos) return Unsupported("with nested fields");
    const size_t colon = std::min(field.find(':'), field.size());
    const absl::string_view spec = field.substr(std::min(colon + 1, field.size()));
    field = field.substr(0, colon);
    if (field.find('!') != absl::string_view::npos) return Unsupported("conversions (!r, !s)");
    RETURN_IF_ERROR(env.Spend(1));
    ASSIGN_OR_RETURN(const Value v, FieldValue(env, field, args, &next));
    RETURN_IF_ERROR(AppendBrace(env, v, spec, format.AnyInput(brace, close), &out));
    i = close + 1;
  }
  return out.Finish();
}

}  // namespace dunlin::model::jinja
