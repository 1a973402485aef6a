// Filters that make text.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/format.h"
#include "model/chat_template/json.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

absl::StatusOr<Value> String(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("string", args, {}).status());
  return ToStr(env, v);
}

absl::StatusOr<Value> Trim(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("trim", args, {"chars"}));
  ASSIGN_OR_RETURN(const Value s, ToStr(env, v));
  return StripText(env, s.text(), a[0], true, true);
}

template <Case to>
absl::StatusOr<Value> ChangeCase(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("case filter", args, {}).status());
  ASSIGN_OR_RETURN(const Value s, ToStr(env, v));
  return MapCase(env, s.text(), to);
}

// Unlike str.title, words begin after whitespace, hyphens and opening brackets only.
absl::StatusOr<Value> Title(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("title", args, {}).status());
  ASSIGN_OR_RETURN(const Value made, ToStr(env, v));
  const MarkedText& text = made.text();
  const absl::string_view s = text.view();
  RETURN_IF_ERROR(env.Spend(s.size() / 16));
  const auto parts_words = [](uint32_t c) {
    return IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  TextBuilder out(env);
  for (size_t i = 0; i < s.size() && !out.full();) {
    const size_t begin = i;
    const bool gap = parts_words(Decode(s, i).value);
    while (i < s.size() && parts_words(Decode(s, i).value) == gap) i += Decode(s, i).size;
    if (gap) {
      out.Append(text, begin, i);
      continue;
    }
    const size_t second = begin + Decode(s, begin).size;
    RETURN_IF_ERROR(env.Spend(1));
    ASSIGN_OR_RETURN(const Value head, MapCase(env, text.Slice(begin, second), Case::kUpper));
    ASSIGN_OR_RETURN(const Value tail, MapCase(env, text.Slice(second, i), Case::kLower));
    out.Append(head.text());
    out.Append(tail.text());
  }
  return out.Finish();
}

absl::StatusOr<Value> Replace(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("replace", args, {"old", "new", "count"}, 2));
  ASSIGN_OR_RETURN(const Value s, ToStr(env, v));
  ASSIGN_OR_RETURN(const Value from, ToStr(env, a[0]));
  ASSIGN_OR_RETURN(const Value to, ToStr(env, a[1]));
  int64_t count = -1;
  if (!a[2].is_none() && !a[2].is_undefined()) {
    ASSIGN_OR_RETURN(count, AsInt(a[2]));
  }
  return ReplaceText(env, s.text(), from.text(), to.text(), count);
}

absl::StatusOr<Value> Indent(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("indent", args, {"width", "first", "blank"}));
  if (!v.is_string()) {
    if (v.is_undefined()) return UndefinedError(v);
    return Invalid(absl::StrCat("indent needs a str, not ", TypeName(v)));
  }
  TextBuilder unit(env);
  if (a[0].is_string()) {
    unit.Append(a[0].text());
  } else {
    int64_t width = 4;
    if (!a[0].is_undefined()) {
      ASSIGN_OR_RETURN(width, AsInt(a[0]));
    }
    unit.Repeat(MarkedText(" ", false), static_cast<size_t>(std::max<int64_t>(width, 0)));
  }
  ASSIGN_OR_RETURN(const Value indent, unit.Finish());
  const bool blank = Truthy(a[2]);
  // The filter adds a newline before it splits, so that a newline at the end makes an empty last line.
  MarkedText text = v.text();
  text.Append("\n", false);
  ASSIGN_OR_RETURN(const std::vector<MarkedText> lines, SplitLines(env, text, false));
  TextBuilder out(env);
  if (Truthy(a[1])) out.Append(indent.text());
  for (size_t i = 0; i < lines.size() && !out.full(); ++i) {
    if (i > 0) out.Append("\n");
    if (i > 0 && (blank || !lines[i].empty())) out.Append(indent.text());
    out.Append(lines[i]);
  }
  return out.Finish();
}

absl::StatusOr<Value> Escape(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("escape", args, {}).status());
  ASSIGN_OR_RETURN(const Value made, ToStr(env, v));
  const MarkedText& text = made.text();
  RETURN_IF_ERROR(env.Spend(text.size() / 16));
  TextBuilder out(env);
  for (size_t i = 0; i < text.size() && !out.full(); ++i) {
    const char c = text.view()[i];
    const absl::string_view entity = c == '&'    ? "&amp;"
                                     : c == '<'  ? "&lt;"
                                     : c == '>'  ? "&gt;"
                                     : c == '"'  ? "&#34;"
                                     : c == '\'' ? "&#39;"
                                                 : "";
    if (entity.empty()) {
      out.Append(text, i, i + 1);
    } else {
      out.Append(entity, text.AnyInput(i, i + 1));
    }
  }
  return out.Finish();
}

absl::StatusOr<Value> Center(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("center", args, {"width"}));
  int64_t width = 80;
  if (!a[0].is_undefined()) {
    ASSIGN_OR_RETURN(width, AsInt(a[0]));
  }
  ASSIGN_OR_RETURN(const Value s, ToStr(env, v));
  return CenterText(env, s.text(), width, MarkedText(" ", false));
}

// truncate(length=255, killwords=False, end='...', leeway=5)
absl::StatusOr<Value> Truncate(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("truncate", args, {"length", "killwords", "end", "leeway"}));
  int64_t length = 255, leeway = 5;
  if (!a[0].is_undefined()) {
    ASSIGN_OR_RETURN(length, AsInt(a[0]));
  }
  if (!a[3].is_undefined() && !a[3].is_none()) {
    ASSIGN_OR_RETURN(leeway, AsInt(a[3]));
  }
  const MarkedText end = a[2].is_string() ? a[2].text() : MarkedText("...", false);
  const int64_t end_points = static_cast<int64_t>(CountPoints(end.view()));
  if (length < end_points) return Invalid(absl::StrCat("expected length >= ", end_points, ", got ", length));
  if (leeway < 0) return Invalid(absl::StrCat("expected leeway >= 0, got ", leeway));
  // Anything short enough is returned as it is, whatever its type.
  ASSIGN_OR_RETURN(const size_t points, Length(env, v));
  if (static_cast<int64_t>(points) - leeway <= length) return v;
  if (!v.is_string()) return Invalid(absl::StrCat("truncate needs a str, not ", TypeName(v)));
  const MarkedText& text = v.text();
  RETURN_IF_ERROR(env.Spend(text.size() / 32));
  size_t cut = OffsetOfPoint(text.view(), static_cast<size_t>(length - end_points));
  if (!Truthy(a[1])) {
    const size_t space = text.view().substr(0, cut).rfind(' ');
    if (space != absl::string_view::npos) cut = space;
  }
  TextBuilder out(env);
  out.Append(text, 0, cut);
  out.Append(end);
  return out.Finish();
}

// Runs of word characters.
absl::StatusOr<Value> WordCount(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("wordcount", args, {}).status());
  ASSIGN_OR_RETURN(const Value made, ToStr(env, v));
  const absl::string_view s = made.text().view();
  RETURN_IF_ERROR(env.Spend(s.size() / 8));
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0, size = 0; i < s.size(); i += size) {
    const CodePoint p = Decode(s, i);
    size = p.size;
    const bool word = p.value == '_' || IsAlpha(p.value) || IsNumeric(p.value);
    words += word && !inside ? 1 : 0;
    inside = word;
  }
  return Value::Int(words);
}

absl::StatusOr<Value> Format(Env& env, const Value& v, const CallArgs& args) {
  if (!args.positional.empty() && !args.keyword.empty()) {
    return Invalid("can't handle positional and keyword arguments at the same time");
  }
  ASSIGN_OR_RETURN(const Value s, ToStr(env, v));
  if (args.keyword.empty()) {
    ASSIGN_OR_RETURN(const Value values, env.NewSequence(Type::kTuple, args.positional));
    return PercentFormat(env, s.text(), values);
  }
  auto values = std::make_shared<DictHeap>();
  for (const auto& [name, value] : args.keyword) {
    RETURN_IF_ERROR(env.Spend(1));
    values->Set(args.NameValue(name), value);
  }
  return PercentFormat(env, s.text(), Value::Object(Type::kDict, std::move(values)));
}

absl::StatusOr<Value> Safe(Env&, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("safe", args, {}).status());
  return v;
}

constexpr FilterRow kRows[] = {
    {"string", String},
    {"trim", Trim},
    {"upper", ChangeCase<Case::kUpper>},
    {"lower", ChangeCase<Case::kLower>},
    {"capitalize", ChangeCase<Case::kCapitalize>},
    {"title", Title},
    {"replace", Replace},
    {"indent", Indent},
    {"escape", Escape},
    {"e", Escape},
    {"center", Center},
    {"truncate", Truncate},
    {"wordcount", WordCount},
    {"format", Format},
    {"tojson", ToJson},
    {"safe", Safe},
};

}  // namespace

Filter FindTextFilter(absl::string_view name) { return LookUp(kRows, name); }

Filter FindFilter(absl::string_view name) {
  for (const auto find : {FindTextFilter, FindNumberFilter, FindSequenceFilter, FindSelectionFilter}) {
    if (const Filter filter = find(name)) return filter;
  }
  return nullptr;
}

}  // namespace dunlin::model::jinja
