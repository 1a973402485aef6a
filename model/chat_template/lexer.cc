#include "model/chat_template/lexer.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/pystr.h"

namespace dunlin::model::jinja {

absl::Status ErrorAt(int line, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", message));
}

namespace {

std::string NormaliseNewlines(absl::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsDigitChar(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : s_(source) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < s_.size()) {
      const size_t tag = NextTag();
      if (tag == absl::string_view::npos) {
        AddData(at_, s_.size());
        break;
      }
      RETURN_IF_ERROR(LexTag(tag));
    }
    Add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(absl::string_view message) const { return ErrorAt(line_, message); }
  char Char(size_t i) const { return i < s_.size() ? s_[i] : '\0'; }
  bool Starts(size_t i, absl::string_view text) const {
    return absl::StartsWith(s_.substr(std::min(i, s_.size())), text);
  }

  void Add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
  // The text [begin, end), after which the lexer stands at `end`.
  void AddData(size_t begin, size_t end) {
    if (end > begin) Add(TokenKind::kData, std::string(s_.substr(begin, end - begin)));
    MoveTo(end);
  }
  void MoveTo(size_t to) {
    for (size_t i = at_; i < to; ++i) line_ += s_[i] == '\n' ? 1 : 0;
    at_ = to;
  }

  size_t NextTag() const {
    for (size_t i = s_.find('{', at_); i != absl::string_view::npos; i = s_.find('{', i + 1)) {
      const char next = Char(i + 1);
      if (next == '%' || next == '{' || next == '#') return i;
    }
    return absl::string_view::npos;
  }

  size_t SkipSpace(size_t i) const {
    while (i < s_.size()) {
      const CodePoint p = Decode(s_, i);
      if (!IsSpace(p.value)) break;
      i += p.size;
    }
    return i;
  }

  // Where the text before a tag ends, by the sign after the tag's opening and by lstrip_blocks.
  size_t DataEnd(size_t begin, size_t tag, char sign, bool is_print) const {
    if (sign == '-') {
      size_t end = tag;
      while (end > begin) {
        const size_t last = PointBefore(s_, end);
        if (last < begin || !IsSpace(Decode(s_, last).value)) break;
        end = last;
      }
      return end;
    }
    if (sign == '+' || is_print) return tag;
    const absl::string_view text = s_.substr(begin, tag - begin);
    const size_t newline = text.rfind('\n');
    if (newline == absl::string_view::npos && !line_starting_) return tag;
    const size_t line = begin + (newline == absl::string_view::npos ? 0 : newline + 1);
    return SkipSpace(line) >= tag ? line : tag;
  }

  absl::Status LexTag(size_t tag) {
    const char type = s_[tag + 1];
    const char sign = Char(tag + 2) == '-' || Char(tag + 2) == '+' ? Char(tag + 2) : '\0';
    const size_t data_begin = at_;
    const size_t data_end = DataEnd(data_begin, tag, sign, type == '{');
    if (data_end > data_begin) {
      Add(TokenKind::kData, std::string(s_.substr(data_begin, data_end - data_begin)));
    }
    MoveTo(tag);
    const size_t inside = tag + 2 + (sign != '\0' ? 1 : 0);
    if (type == '#') return LexComment(inside);
    if (type == '%' && RawBegin(inside) != 0) return LexRaw(RawBegin(inside));
    Add(type == '{' ? TokenKind::kPrintBegin : TokenKind::kBlockBegin, "");
    MoveTo(inside);
    return LexExpression(type == '{');
  }

  // Past "-%}", "+%}" or "%}" at i with what they swallow; 0 when there is none of them. `close` is "%}", "#}" or "}}".
  size_t TagEnd(size_t i, absl::string_view close) const {
    if (Char(i) == '-' && Starts(i + 1, close)) return SkipSpace(i + 3);
    if (Char(i) == '+' && close != "}}" && Starts(i + 1, close)) return i + 3;
    if (!Starts(i, close)) return 0;
    return close != "}}" && Char(i + 2) == '\n' ? i + 3 : i + 2;
  }

  void FinishTag(size_t end) {
    MoveTo(end);
    line_starting_ = end > 0 && s_[end - 1] == '\n';
  }

  absl::Status LexComment(size_t inside) {
    size_t close = s_.find("#}", inside);
    if (close == absl::string_view::npos) return Error("Missing end of comment tag");
    if (close > inside && (s_[close - 1] == '-' || s_[close - 1] == '+')) --close;
    FinishTag(TagEnd(close, "#}"));
    return absl::OkStatus();
  }

  // Past "raw %}" when the tag whose inside starts at i is that; else 0.
  size_t RawBegin(size_t i) const {
    i = SkipSpace(i);
    if (!Starts(i, "raw")) return 0;
    i = SkipSpace(i + 3);
    if (Starts(i, "-%}")) return SkipSpace(i + 3);
    return Starts(i, "%}") ? i + 2 : 0;
  }

  absl::Status LexRaw(size_t begin) {
    FinishTag(begin);
    for (size_t tag = s_.find("{%", begin); tag != absl::string_view::npos; tag = s_.find("{%", tag + 1)) {
      const char sign = Char(tag + 2) == '-' || Char(tag + 2) == '+' ? Char(tag + 2) : '\0';
      size_t i = SkipSpace(tag + 2 + (sign != '\0' ? 1 : 0));
      if (!Starts(i, "endraw")) continue;
      const size_t end = TagEnd(SkipSpace(i + 6), "%}");
      if (end == 0) continue;
      const size_t data_end = DataEnd(begin, tag, sign, false);
      if (data_end > begin) Add(TokenKind::kData, std::string(s_.substr(begin, data_end - begin)));
      FinishTag(end);
      return absl::OkStatus();
    }
    return Error("Missing end of raw directive");
  }

  absl::Status LexExpression(bool is_print) {
    std::string open;  // brackets that wait for their end
    while (true) {
      MoveTo(SkipSpace(at_));
      if (at_ >= s_.size())
        return Error(is_print ? "unexpected end of template, expected '}}'"
                              : "unexpected end of template, expected '%}'");
      if (open.empty()) {
        if (const size_t end = TagEnd(at_, is_print ? "}}" : "%}"); end != 0) {
          Add(is_print ? TokenKind::kPrintEnd : TokenKind::kBlockEnd, "");
          FinishTag(end);
          return absl::OkStatus();
        }
      }
      const char c = s_[at_];
      if (IsDigitChar(c)) {
        RETURN_IF_ERROR(LexNumber());
      } else if (c == '\'' || c == '"') {
        RETURN_IF_ERROR(LexString(c));
      } else if (const size_t end = NameEnd(at_); end > at_) {
        Add(TokenKind::kName, std::string(s_.substr(at_, end - at_)));
        MoveTo(end);
      } else {
        RETURN_IF_ERROR(LexOperator(&open));
      }
    }
  }

  size_t NameEnd(size_t i) const {
    while (i < s_.size()) {
      const CodePoint p = Decode(s_, i);
      if (p.value != '_' && !IsAlpha(p.value) && !IsNumeric(p.value)) break;
      i += p.size;
    }
    return i;
  }

  // Digits of a base with single underscores between them; returns past them.
  size_t Digits(size_t i, bool (*is_digit)(unsigned char), std::string* out) const {
    while (is_digit(static_cast<unsigned char>(Char(i))) ||
           (Char(i) == '_' && is_digit(static_cast<unsigned char>(Char(i + 1))))) {
      if (s_[i] != '_') out->push_back(s_[i]);
      ++i;
    }
    return i;
  }

  absl::Status LexNumber() {
    const char prefix = absl::ascii_tolower(static_cast<unsigned char>(Char(at_ + 1)));
    std::string text;
    if (s_[at_] == '0' && (prefix == 'x' || prefix == 'o' || prefix == 'b')) {
      const auto is_digit = prefix == 'x'   ? +[](unsigned char c) { return absl::ascii_isxdigit(c); }
                            : prefix == 'o' ? +[](unsigned char c) { return c >= '0' && c <= '7'; }
                                            : +[](unsigned char c) { return c == '0' || c == '1'; };
      const size_t end = Digits(at_ + 2, is_digit, &text);
      if (text.empty()) return Error("a number without digits");
      Add(TokenKind::kInteger, absl::StrCat("0", std::string(1, prefix), text));
      MoveTo(end);
      return absl::OkStatus();
    }
    const auto decimal = +[](unsigned char c) { return absl::ascii_isdigit(c); };
    size_t end = Digits(at_, decimal, &text);
    bool is_float = false;
    if (Char(end) == '.' && IsDigitChar(Char(end + 1)) && (at_ == 0 || s_[at_ - 1] != '.')) {
      text.push_back('.');
      end = Digits(end + 1, decimal, &text);
      is_float = true;
    }
    if (Char(end) == 'e' || Char(end) == 'E') {
      const size_t sign = Char(end + 1) == '+' || Char(end + 1) == '-' ? 1 : 0;
      if (IsDigitChar(Char(end + 1 + sign))) {
        text.push_back('e');
        if (sign == 1) text.push_back(Char(end + 1));
        end = Digits(end + 1 + sign, decimal, &text);
        is_float = true;
      }
    }
    if (!is_float && text.size() > 1 && text[0] == '0' && text.find_first_not_of('0') != std::string::npos) {
      return Error("a number with a leading zero");
    }
    Add(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(text));
    MoveTo(end);
    return absl::OkStatus();
  }

  absl::Status LexString(char quote) {
    const int line = line_;
    std::string out;
    size_t i = at_ + 1;
    while (true) {
      if (i >= s_.size()) return Error("a string without its end");
      if (s_[i] == quote) break;
      if (s_[i] != '\\') {
        out.push_back(s_[i++]);
        continue;
      }
      if (i + 1 >= s_.size()) return Error("a string without its end");
      RETURN_IF_ERROR(LexEscape(&i, &out));
    }
    MoveTo(i + 1);
    tokens_.push_back({TokenKind::kString, line, std::move(out)});
    return absl::OkStatus();
  }

  // The escape at *i (a backslash), as in a Python literal; unknown ones stay as they are.
  absl::Status LexEscape(size_t* i, std::string* out) {
    const char c = s_[*i + 1];
    *i += 2;
    constexpr absl::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t at = kFrom.find(c); at != absl::string_view::npos) {
      out->push_back(kTo[at]);
      return absl::OkStatus();
    }
    if (c == '\n') return absl::OkStatus();
    if (c >= '0' && c <= '7') {
      uint32_t value = static_cast<uint32_t>(c - '0');
      for (int n = 1; n < 3 && Char(*i) >= '0' && Char(*i) <= '7'; ++n) {
        value = value * 8 + static_cast<uint32_t>(s_[(*i)++] - '0');
      }
      AppendUtf8(value, out);
      return absl::OkStatus();
    }
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (c == 'N') return absl::UnimplementedError(absl::StrCat("line ", line_, ": \\N{...} escapes are not supported"));
    if (digits == 0) {
      out->push_back('\\');
      *i -= 1;  // the character itself is read as ordinary text
      return absl::OkStatus();
    }
    uint32_t value = 0;
    for (int n = 0; n < digits; ++n) {
      const unsigned char digit = static_cast<unsigned char>(Char(*i));
      if (!absl::ascii_isxdigit(digit) || value > 0x10FFFF) return Error("a broken escape in a string");
      value = value * 16 + static_cast<uint32_t>(absl::ascii_isdigit(digit) ? digit - '0' : (digit | 0x20) - 'a' + 10);
      ++*i;
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return Error("an escape that is no code point");
    AppendUtf8(value, out);
    return absl::OkStatus();
  }

  absl::Status LexOperator(std::string* open) {
    for (const absl::string_view op : {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                       "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"}) {
      if (!Starts(at_, op)) continue;
      const char c = op[0];
      if (c == '(' || c == '[' || c == '{') open->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      if (c == ')' || c == ']' || c == '}') {
        if (open->empty()) return Error(absl::StrCat("unexpected '", op, "'"));
        if (open->back() != c)
          return Error(absl::StrCat("unexpected '", op, "', expected '", open->substr(open->size() - 1), "'"));
        open->pop_back();
      }
      Add(TokenKind::kOperator, std::string(op));
      MoveTo(at_ + op.size());
      return absl::OkStatus();
    }
    return Error(absl::StrCat("unexpected char '", absl::CHexEscape(s_.substr(at_, Decode(s_, at_).size)), "'"));
  }

  absl::string_view s_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  const std::string text = NormaliseNewlines(source);
  return Lexer(text).Run();
}

}  // namespace dunlin::model::jinja
