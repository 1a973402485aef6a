// ParseJsonValue: RFC 8259 to template values, numbers as Python's json module reads them.
#include <charconv>
#include <cstdint>
#include <limits>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model {
namespace {

constexpr int kMaxNesting = 64;
constexpr size_t kMaxDigits = 4300;  // as Python limits integer texts

class Reader {
 public:
  Reader(absl::string_view text, bool mark_input) : text_(text), mark_input_(mark_input) {}

  absl::StatusOr<Value> ReadAll() {
    ASSIGN_OR_RETURN(Value v, Read(0));
    SkipSpace();
    if (at_ != text_.size()) return Error("text after the value");
    return v;
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("JSON byte ", at_, ": ", what));
  }
  bool Peek(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool PeekDigit() const { return at_ < text_.size() && absl::ascii_isdigit(static_cast<unsigned char>(text_[at_])); }
  bool Take(char c) {
    if (!Peek(c)) return false;
    ++at_;
    return true;
  }
  void SkipSpace() {
    while (Peek(' ') || Peek('\t') || Peek('\n') || Peek('\r')) ++at_;
  }

  absl::StatusOr<Value> Read(int nesting) {
    SkipSpace();
    if (nesting > kMaxNesting) return Error(absl::StrCat("nested deeper than ", kMaxNesting));
    if (at_ == text_.size()) return Error("the text ends where a value should be");
    switch (text_[at_]) {
      case '{':
        return ReadObject(nesting);
      case '[':
        return ReadArray(nesting);
      case '"': {
        ASSIGN_OR_RETURN(std::string s, ReadString());
        return Value::Text(MarkedText(std::move(s), mark_input_));
      }
      default:
        break;
    }
    const std::pair<absl::string_view, Value> words[] = {
        {"true", Value::Bool(true)}, {"false", Value::Bool(false)}, {"null", Value::None()}};
    for (const auto& [word, value] : words) {
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return value;
    }
    return ReadNumber();
  }

  absl::StatusOr<Value> ReadArray(int nesting) {
    ++at_;
    std::vector<Value> items;
    SkipSpace();
    if (Take(']')) return Value::List(std::move(items));
    while (true) {
      ASSIGN_OR_RETURN(Value item, Read(nesting + 1));
      items.push_back(std::move(item));
      SkipSpace();
      if (Take(']')) return Value::List(std::move(items));
      if (!Take(',')) return Error("',' or ']' expected");
    }
  }

  absl::StatusOr<Value> ReadObject(int nesting) {
    ++at_;
    auto heap = std::make_shared<jinja::DictHeap>();
    SkipSpace();
    if (Take('}')) return Value::Object(Value::Type::kDict, std::move(heap));
    while (true) {
      SkipSpace();
      if (!Peek('"')) return Error("a key in quotes expected");
      ASSIGN_OR_RETURN(std::string key, ReadString());
      SkipSpace();
      if (!Take(':')) return Error("':' expected");
      ASSIGN_OR_RETURN(Value value, Read(nesting + 1));
      heap->Set(Value::Text(MarkedText(std::move(key), mark_input_)), std::move(value));
      SkipSpace();
      if (Take('}')) return Value::Object(Value::Type::kDict, std::move(heap));
      if (!Take(',')) return Error("',' or '}' expected");
    }
  }

  absl::StatusOr<uint32_t> ReadHex4() {
    uint32_t value = 0;
    if (text_.size() - at_ < 4) return Error("four hex digits expected");
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, begin + 4, value, 16);
    if (error != std::errc() || end != begin + 4) return Error("four hex digits expected");
    at_ += 4;
    return value;
  }

  absl::Status ReadEscape(std::string* out) {
    if (at_ == text_.size()) return Error("the text ends inside a string");
    const char c = text_[at_++];
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out->push_back(c);
        return absl::OkStatus();
      case 'b':
        out->push_back('\b');
        return absl::OkStatus();
      case 'f':
        out->push_back('\f');
        return absl::OkStatus();
      case 'n':
        out->push_back('\n');
        return absl::OkStatus();
      case 'r':
        out->push_back('\r');
        return absl::OkStatus();
      case 't':
        out->push_back('\t');
        return absl::OkStatus();
      case 'u':
        break;
      default:
        --at_;
        return Error("unknown escape");
    }
    ASSIGN_OR_RETURN(uint32_t point, ReadHex4());
    if (point >= 0xD800 && point < 0xDC00 && text_.substr(at_, 2) == "\\u") {
      at_ += 2;
      ASSIGN_OR_RETURN(const uint32_t low, ReadHex4());
      if (low < 0xDC00 || low > 0xDFFF) return Error("half of a surrogate pair");
      point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    if (point >= 0xD800 && point <= 0xDFFF) return Error("half of a surrogate pair");
    jinja::AppendUtf8(point, out);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> ReadString() {
    ++at_;
    std::string out;
    while (true) {
      if (at_ == text_.size()) return Error("the text ends inside a string");
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) return Error("control character in a string");
      if (c == '\\') {
        ++at_;
        RETURN_IF_ERROR(ReadEscape(&out));
        continue;
      }
      const jinja::CodePoint p = jinja::Decode(text_, at_);
      if (p.value == 0xFFFD && p.size == 1) return Error("not UTF-8");
      if (c == '"') {
        ++at_;
        return out;
      }
      out.append(text_.data() + at_, p.size);
      at_ += p.size;
    }
  }

  bool SkipDigits() {
    const size_t begin = at_;
    while (PeekDigit()) ++at_;
    return at_ > begin;
  }

  absl::StatusOr<Value> ReadNumber() {
    const size_t begin = at_;
    Take('-');
    const size_t first = at_;
    if (!SkipDigits()) return Error("a value expected");
    if (text_[first] == '0' && at_ - first > 1) return Error("a number with a leading zero");
    bool whole = true;
    if (Take('.')) {
      whole = false;
      if (!SkipDigits()) return Error("digits expected after the point");
    }
    if (Take('e') || Take('E')) {
      whole = false;
      if (!Take('+')) Take('-');
      if (!SkipDigits()) return Error("digits expected in the exponent");
    }
    const std::string digits(text_.substr(begin, at_ - begin));
    if (!whole) {
      double number = 0;
      jinja::ReadDouble(digits, &number);
      return Value::Float(number);
    }
    int64_t value = 0;
    if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec == std::errc()) {
      return Value::Int(value);
    }
    if (digits.size() > kMaxDigits) return Error(absl::StrCat("an integer of more than ", kMaxDigits, " digits"));
    return Value::BigInt(digits);
  }

  absl::string_view text_;
  const bool mark_input_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<Value> ParseJsonValue(absl::string_view json, bool mark_input) {
  return Reader(json, mark_input).ReadAll();
}

}  // namespace dunlin::model
