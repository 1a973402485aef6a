// str.split, rsplit, splitlines, partition, rpartition.
#include <algorithm>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "model/chat_template/methods_internal.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

absl::StatusOr<Value> ListOfTexts(Env& env, std::vector<MarkedText> parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (MarkedText& part : parts) items.push_back(Value::Text(std::move(part)));
  return env.NewSequence(Type::kList, std::move(items));
}

// The pieces of split() without a separator: runs of whitespace part them.
absl::StatusOr<std::vector<MarkedText>> SplitWhitespace(Env& env, const MarkedText& text, int64_t max,
                                                        bool from_right) {
  std::vector<std::pair<size_t, size_t>> words;
  const absl::string_view s = text.view();
  for (size_t i = 0, size = 0; i < s.size(); i += size) {
    const CodePoint p = Decode(s, i);
    size = p.size;
    if (IsSpace(p.value)) continue;
    if (words.empty() || words.back().second != i) {
      RETURN_IF_ERROR(env.Spend(1));
      words.emplace_back(i, i);
    }
    words.back().second = i + size;
  }
  const size_t limit = max < 0 ? words.size() : static_cast<size_t>(max);
  std::vector<MarkedText> out;
  const size_t rest = words.size() > limit ? words.size() - limit : 0;  // words that stay together
  if (rest > 0 && from_right) out.push_back(text.Slice(0, words[rest - 1].second));
  for (size_t i = from_right ? rest : 0; i < (from_right ? words.size() : words.size() - rest); ++i) {
    out.push_back(text.Slice(words[i].first, words[i].second));
  }
  if (rest > 0 && !from_right) out.push_back(text.Slice(words[words.size() - rest].first, s.size()));
  return out;
}

absl::StatusOr<std::vector<size_t>> Occurrences(Env& env, absl::string_view s, absl::string_view needle) {
  std::vector<size_t> out;
  for (size_t at = 0;;) {
    at = FindText(s, needle, at);
    if (at == absl::string_view::npos) return out;
    RETURN_IF_ERROR(env.Spend(1 + needle.size() / 16));
    out.push_back(at);
    at += needle.size();
  }
}

}  // namespace

absl::StatusOr<Value> Split(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"sep", "maxsplit"}));
  const MarkedText& text = self.text();
  RETURN_IF_ERROR(env.Spend(text.size() / 16));
  int64_t max = -1;
  if (!a[1].is_undefined()) {
    ASSIGN_OR_RETURN(max, AsInt(a[1]));
  }
  if (a[0].is_undefined() || a[0].is_none()) {
    ASSIGN_OR_RETURN(auto words, SplitWhitespace(env, text, max, name == "rsplit"));
    return ListOfTexts(env, std::move(words));
  }
  RETURN_IF_ERROR(WantText(a[0], name));
  const absl::string_view sep = a[0].text().view();
  if (sep.empty()) return Invalid("empty separator");
  ASSIGN_OR_RETURN(std::vector<size_t> cuts, Occurrences(env, text.view(), sep));
  if (name == "rsplit" && max >= 0) {
    // From the right occurrences may fall differently ("aaa" by "aa"): find them backwards.
    cuts.clear();
    const absl::string_view s = text.view();
    for (size_t end = s.size(); cuts.size() < static_cast<size_t>(max);) {
      const size_t at = s.substr(0, end).rfind(sep);
      if (at == absl::string_view::npos) break;
      RETURN_IF_ERROR(env.Spend(1 + (end - at) * std::min<size_t>(sep.size(), 64) / 1024));
      cuts.push_back(at);
      end = at;
    }
    std::reverse(cuts.begin(), cuts.end());
  } else if (max >= 0 && cuts.size() > static_cast<size_t>(max)) {
    cuts.resize(static_cast<size_t>(max));
  }
  std::vector<MarkedText> parts;
  size_t begin = 0;
  for (const size_t cut : cuts) {
    parts.push_back(text.Slice(begin, cut));
    begin = cut + sep.size();
  }
  parts.push_back(text.Slice(begin, text.size()));
  return ListOfTexts(env, std::move(parts));
}

absl::StatusOr<Value> SplitLinesMethod(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"keepends"}));
  ASSIGN_OR_RETURN(auto lines, SplitLines(env, self.text(), Truthy(a[0])));
  return ListOfTexts(env, std::move(lines));
}

absl::StatusOr<Value> Partition(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"sep"}, 1));
  RETURN_IF_ERROR(WantText(a[0], name));
  const MarkedText& text = self.text();
  const absl::string_view sep = a[0].text().view();
  if (sep.empty()) return Invalid("empty separator");
  RETURN_IF_ERROR(env.Spend(text.size() / 16));
  ASSIGN_OR_RETURN(const std::vector<size_t> cuts, Occurrences(env, text.view(), sep));
  const bool backwards = name == "rpartition";
  if (cuts.empty()) {
    const Value empty = Value::String("");
    return env.NewSequence(Type::kTuple,
                           backwards ? std::vector<Value>{empty, empty, self} : std::vector<Value>{self, empty, empty});
  }
  const size_t cut = backwards ? text.view().rfind(sep) : cuts.front();
  return env.NewSequence(Type::kTuple, {Value::Text(text.Slice(0, cut)), Value::Text(text.Slice(cut, cut + sep.size())),
                                        Value::Text(text.Slice(cut + sep.size(), text.size()))});
}

}  // namespace dunlin::model::jinja
