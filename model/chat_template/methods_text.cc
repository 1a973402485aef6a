// Text operations that filters and methods share: strip, replace, case, lines, centring.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"

namespace dunlin::model::jinja {
namespace {

bool IsLineEnd(uint32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

void AppendMapped(const Mapped& mapped, bool input, TextBuilder* out) {
  for (int i = 0; i < mapped.count; ++i) out->AppendPoint(mapped.to[i], input);
}

// First code point of the upper mapping, the rest of it in lower case: "ss" of a sharp s becomes "Ss".
void AppendTitled(uint32_t c, bool input, TextBuilder* out) {
  const Mapped upper = ToUpper(c);
  out->AppendPoint(upper.to[0], input);
  for (int i = 1; i < upper.count; ++i) AppendMapped(ToLower(upper.to[i]), input, out);
}

constexpr uint32_t kSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

// A capital sigma at the end of a word has a small form of its own.
bool IsFinalSigma(absl::string_view s, size_t at, size_t size) {
  if (at == 0) return false;
  const uint32_t before = Decode(s, PointBefore(s, at)).value;
  if (!IsAlpha(before)) return false;
  return at + size >= s.size() || !IsAlpha(Decode(s, at + size).value);
}

}  // namespace

absl::StatusOr<Value> StripText(Env& env, const MarkedText& text, const Value& chars, bool left, bool right) {
  RETURN_IF_ERROR(env.SpendBytes(text.size()));
  std::vector<uint32_t> set;
  const bool whitespace = chars.is_none() || chars.is_undefined();
  if (!whitespace) {
    if (!chars.is_string()) return Invalid("strip arg must be None or str");
    const absl::string_view c = chars.text().view();
    RETURN_IF_ERROR(env.Spend(c.size() / 8));
    for (size_t i = 0; i < c.size(); i += Decode(c, i).size) set.push_back(Decode(c, i).value);
    std::sort(set.begin(), set.end());
  }
  const auto drops = [&](uint32_t c) {
    return whitespace ? IsSpace(c) : std::binary_search(set.begin(), set.end(), c);
  };
  const absl::string_view s = text.view();
  size_t begin = 0, end = s.size();
  while (left && begin < end) {
    const CodePoint p = Decode(s, begin);
    if (!drops(p.value)) break;
    begin += p.size;
  }
  while (right && begin < end) {
    const size_t last = PointBefore(s, end);
    if (!drops(Decode(s, last).value)) break;
    end = last;
  }
  return env.NewText(text.Slice(begin, end));
}

absl::StatusOr<Value> ReplaceText(Env& env, const MarkedText& text, const MarkedText& from, const MarkedText& to,
                                  int64_t count) {
  RETURN_IF_ERROR(env.Spend(text.size() / 16));
  TextBuilder out(env);
  const absl::string_view s = text.view();
  size_t at = 0;
  if (from.empty()) {  // between all code points, and at both ends
    RETURN_IF_ERROR(env.Spend(text.size() / 4));
    for (; count != 0 && !out.full(); --count) {
      out.Append(to);
      if (at == s.size()) return out.Finish();
      const size_t size = Decode(s, at).size;
      out.Append(text, at, at + size);
      at += size;
    }
  } else {
    for (; count != 0 && !out.full(); --count) {
      const size_t found = FindText(s, from.view(), at);
      if (found == absl::string_view::npos) break;
      // A long needle makes each search set up a table; short ones are free.
      if (from.size() > 16) RETURN_IF_ERROR(env.Spend(from.size() / 16));
      out.Append(text, at, found);
      out.Append(to);
      at = found + from.size();
    }
  }
  out.Append(text, at, text.size());
  return out.Finish();
}

absl::StatusOr<Value> MapCase(Env& env, const MarkedText& text, Case to) {
  RETURN_IF_ERROR(env.Spend(text.size() / 16));
  TextBuilder out(env);
  const absl::string_view s = text.view();
  bool first = true, after_cased = false;
  for (size_t i = 0; i < s.size() && !out.full();) {
    const CodePoint p = Decode(s, i);
    const bool input = text.AnyInput(i, i + 1);
    const bool lower = to == Case::kLower || (to == Case::kCapitalize && !first) ||
                       (to == Case::kTitle && after_cased) || (to == Case::kSwap && IsUpper(p.value));
    if (p.value == 0xFFFD) {
      out.Append(text, i, i + p.size);  // as it is, whether it was invalid or a real U+FFFD
    } else if (lower && p.value == kSigma) {
      out.AppendPoint(IsFinalSigma(s, i, p.size) ? kFinalSigma : kSmallSigma, input);
    } else if (lower) {
      AppendMapped(ToLower(p.value), input, &out);
    } else if (to == Case::kUpper || (to == Case::kSwap && IsLower(p.value))) {
      AppendMapped(ToUpper(p.value), input, &out);
    } else if (to == Case::kSwap) {
      out.Append(text, i, i + p.size);
    } else {
      AppendTitled(p.value, input, &out);
    }
    after_cased = IsUpper(p.value) || IsLower(p.value);
    first = false;
    i += p.size;
  }
  return out.Finish();
}

absl::StatusOr<std::vector<MarkedText>> SplitLines(Env& env, const MarkedText& text, bool keep_ends) {
  RETURN_IF_ERROR(env.Spend(text.size() / 16));
  std::vector<MarkedText> lines;
  const absl::string_view s = text.view();
  size_t begin = 0;
  for (size_t i = 0; i < s.size();) {
    const CodePoint p = Decode(s, i);
    size_t next = i + p.size;
    if (IsLineEnd(p.value)) {
      if (p.value == '\r' && next < s.size() && s[next] == '\n') ++next;
      RETURN_IF_ERROR(env.Spend(1));
      lines.push_back(text.Slice(begin, keep_ends ? next : i));
      begin = next;
    }
    i = next;
  }
  if (begin < s.size()) lines.push_back(text.Slice(begin, s.size()));
  return lines;
}

absl::StatusOr<Value> CenterText(Env& env, const MarkedText& text, int64_t width, const MarkedText& fill) {
  RETURN_IF_ERROR(env.SpendBytes(text.size()));
  if (CountPoints(fill.view()) != 1) return Invalid("The fill character must be exactly one character long");
  const int64_t length = static_cast<int64_t>(CountPoints(text.view()));
  const int64_t pad = width > length ? width - length : 0;
  const int64_t left = pad / 2 + (pad & width & 1);
  TextBuilder out(env);
  out.Repeat(fill, static_cast<size_t>(left));
  out.Append(text);
  out.Repeat(fill, static_cast<size_t>(pad - left));
  return out.Finish();
}

}  // namespace dunlin::model::jinja
