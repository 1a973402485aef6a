// Methods of str, dict, list and tuple: one row per method.
#include "model/chat_template/methods.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/format.h"
#include "model/chat_template/methods_internal.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {

absl::Status WantText(const Value& v, absl::string_view callee) {
  if (v.is_string()) return absl::OkStatus();
  if (v.is_undefined()) return UndefinedError(v);
  return Invalid(absl::StrCat(callee, " arguments must be str, not ", TypeName(v)));
}

namespace {

using Type = Value::Type;
using Method = absl::StatusOr<Value> (*)(Env& env, const Value& self, absl::string_view name, const CallArgs& args);

// text[start:stop] of find, count, startswith and the like, as bytes.
struct Window {
  size_t begin, end;
  bool valid;
};
absl::StatusOr<Window> SubWindow(Env& env, const MarkedText& text, const Value& start, const Value& stop) {
  const auto absent = [](const Value& v) { return v.is_undefined() || v.is_none(); };
  if (absent(start) && absent(stop)) return Window{0, text.size(), true};
  RETURN_IF_ERROR(env.Spend(text.size() / 32));
  const int64_t size = static_cast<int64_t>(CountPoints(text.view()));
  int64_t bounds[2] = {0, size};
  for (int i = 0; i < 2; ++i) {
    const Value& v = i == 0 ? start : stop;
    if (absent(v)) continue;
    ASSIGN_OR_RETURN(bounds[i], AsInt(v));
    if (bounds[i] < 0) bounds[i] = std::max<int64_t>(bounds[i] + size, 0);
  }
  if (bounds[0] > size) return Window{0, 0, false};
  bounds[1] = std::min(bounds[1], size);
  if (bounds[0] > bounds[1]) return Window{0, 0, false};
  return Window{OffsetOfPoint(text.view(), static_cast<size_t>(bounds[0])),
                OffsetOfPoint(text.view(), static_cast<size_t>(bounds[1])), true};
}

absl::StatusOr<Value> Strip(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"chars"}));
  return StripText(env, self.text(), a[0], name != "rstrip", name != "lstrip");
}

absl::StatusOr<Value> ChangeCase(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(name, args, {}).status());
  return MapCase(env, self.text(),
                 name == "upper"        ? Case::kUpper
                 : name == "lower"      ? Case::kLower
                 : name == "title"      ? Case::kTitle
                 : name == "capitalize" ? Case::kCapitalize
                                        : Case::kSwap);
}

absl::StatusOr<Value> Replace(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"old", "new", "count"}, 2));
  RETURN_IF_ERROR(WantText(a[0], name));
  RETURN_IF_ERROR(WantText(a[1], name));
  int64_t count = -1;
  if (!a[2].is_undefined()) {
    ASSIGN_OR_RETURN(count, AsInt(a[2]));
  }
  return ReplaceText(env, self.text(), a[0].text(), a[1].text(), count);
}

// startswith, endswith: one text or a tuple of them.
absl::StatusOr<Value> Affix(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"prefix", "start", "end"}, 1));
  ASSIGN_OR_RETURN(const Window w, SubWindow(env, self.text(), a[1], a[2]));
  const std::vector<Value> one = {a[0]};
  const std::vector<Value>& choices = a[0].is(Type::kTuple) ? a[0].items() : one;
  const absl::string_view s = self.text().view().substr(w.begin, w.end - w.begin);
  bool matches = false;
  for (const Value& choice : choices) {
    RETURN_IF_ERROR(WantText(choice, name));
    const absl::string_view c = choice.text().view();
    RETURN_IF_ERROR(env.Spend(1 + c.size() / 128));
    if (!w.valid || c.size() > s.size()) continue;
    matches = matches || (name == "startswith" ? s.substr(0, c.size()) : s.substr(s.size() - c.size())) == c;
  }
  return Value::Bool(matches);
}

// find, rfind, index, rindex, count
absl::StatusOr<Value> Search(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"sub", "start", "end"}, 1));
  RETURN_IF_ERROR(WantText(a[0], name));
  ASSIGN_OR_RETURN(const Window w, SubWindow(env, self.text(), a[1], a[2]));
  RETURN_IF_ERROR(env.Spend(self.text().size() / 16));
  const absl::string_view s = self.text().view().substr(0, w.end), needle = a[0].text().view();
  const bool counts = name == "count", backwards = name[0] == 'r';
  if (counts && needle.empty()) {
    return Value::Int(w.valid ? static_cast<int64_t>(CountPoints(s.substr(w.begin))) + 1 : 0);
  }
  size_t found = absl::string_view::npos;
  int64_t hits = 0;
  if (backwards && needle.empty() && w.valid) found = w.end;
  for (size_t at = w.begin; w.valid && found != w.end;) {
    const size_t next = FindText(s, needle, at);
    if (next == absl::string_view::npos) break;
    if (needle.size() > 16) RETURN_IF_ERROR(env.Spend((backwards ? s.size() - next : needle.size()) / 16));
    found = next;
    ++hits;
    if (!counts && !backwards) break;
    at = next + (counts ? needle.size() : 1);
  }
  if (counts) return Value::Int(hits);
  if (found != absl::string_view::npos) return Value::Int(static_cast<int64_t>(CountPoints(s.substr(0, found))));
  if (name == "index" || name == "rindex") return Invalid("substring not found");
  return Value::Int(-1);
}

absl::StatusOr<Value> RemoveAffix(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"prefix"}, 1));
  RETURN_IF_ERROR(WantText(a[0], name));
  const absl::string_view s = self.text().view(), affix = a[0].text().view();
  if (affix.size() > s.size()) return self;
  const size_t rest = s.size() - affix.size();
  if (name == "removeprefix") {
    return s.substr(0, affix.size()) == affix ? env.NewText(self.text().Slice(affix.size(), s.size())) : self;
  }
  return s.substr(rest) == affix ? env.NewText(self.text().Slice(0, rest)) : self;
}

absl::StatusOr<Value> Pad(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"width", "fillchar"}, 1));
  ASSIGN_OR_RETURN(const int64_t width, AsInt(a[0]));
  const MarkedText& text = self.text();
  const MarkedText fill = a[1].is_string() ? a[1].text() : MarkedText(name == "zfill" ? "0" : " ", false);
  if (name == "center") return CenterText(env, text, width, fill);
  if (CountPoints(fill.view()) != 1) return Invalid("The fill character must be exactly one character long");
  RETURN_IF_ERROR(env.SpendBytes(text.size()));
  const int64_t length = static_cast<int64_t>(CountPoints(text.view()));
  const size_t pad = width > length ? static_cast<size_t>(width - length) : 0;
  TextBuilder out(env);
  size_t sign = 0;
  if (name == "zfill" && !text.empty() && (text.view()[0] == '-' || text.view()[0] == '+')) sign = 1;
  out.Append(text, 0, sign);
  if (name != "ljust") out.Repeat(fill, pad);
  out.Append(text, sign, text.size());
  if (name == "ljust") out.Repeat(fill, pad);
  return out.Finish();
}

absl::StatusOr<Value> Join(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"iterable"}, 1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, a[0]));
  TextBuilder out(env);
  for (size_t i = 0; i < items.size() && !out.full(); ++i) {
    if (!items[i].is_string()) {
      return Invalid(absl::StrCat("sequence item ", i, ": expected str instance, ", TypeName(items[i]), " found"));
    }
    if (i > 0) out.Append(self.text());
    RETURN_IF_ERROR(env.SpendBytes(items[i].text().size() + self.text().size()));
    out.Append(items[i].text());
  }
  return out.Finish();
}

// Every code point satisfies the class and there is at least one; for islower and isupper caseless ones are allowed.
absl::StatusOr<Value> Classify(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(name, args, {}).status());
  const absl::string_view s = self.text().view();
  RETURN_IF_ERROR(env.Spend(s.size() / 8));
  const bool cased_class = name == "islower" || name == "isupper";
  bool any = false;
  for (size_t i = 0, size = 0; i < s.size(); i += size) {
    const CodePoint p = Decode(s, i);
    size = p.size;
    const uint32_t c = p.value;
    if (cased_class) {
      if (name == "islower" ? IsUpper(c) : IsLower(c)) return Value::Bool(false);
      any = any || (name == "islower" ? IsLower(c) : IsUpper(c));
      continue;
    }
    const bool holds = name == "isalpha"       ? IsAlpha(c)
                       : name == "isdigit"     ? IsDigit(c)
                       : name == "isdecimal"   ? IsDecimal(c)
                       : name == "isnumeric"   ? IsNumeric(c)
                       : name == "isspace"     ? IsSpace(c)
                       : name == "isascii"     ? c < 0x80
                       : name == "isprintable" ? IsPrintable(c)
                                               : IsAlpha(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c);
    if (!holds) return Value::Bool(false);
    any = true;
  }
  return Value::Bool(any || (s.empty() && (name == "isascii" || name == "isprintable")));
}

absl::StatusOr<Value> IsTitle(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(name, args, {}).status());
  const absl::string_view s = self.text().view();
  RETURN_IF_ERROR(env.Spend(s.size() / 8));
  bool any = false, after_cased = false;
  for (size_t i = 0, size = 0; i < s.size(); i += size) {
    const CodePoint p = Decode(s, i);
    size = p.size;
    const bool upper = IsUpper(p.value), lower = IsLower(p.value);
    if ((upper && after_cased) || (lower && !after_cased)) return Value::Bool(false);
    after_cased = upper || lower;
    any = any || after_cased;
  }
  return Value::Bool(any);
}

absl::StatusOr<Value> FormatMethod(Env& env, const Value& self, absl::string_view, const CallArgs& args) {
  return BraceFormat(env, self.text(), args);
}

absl::StatusOr<Value> DictGet(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"key", "default"}, 1));
  ASSIGN_OR_RETURN(const bool present, Contains(env, self, a[0]));
  if (present) {
    const DictHeap& dict = *self.heap<DictHeap>();
    return dict.entries()[static_cast<size_t>(dict.IndexOf(a[0]))].second;
  }
  return a[1].is_undefined() && args.positional.size() + args.keyword.size() < 2 ? Value::None() : a[1];
}

absl::StatusOr<Value> DictView(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(name, args, {}).status());
  const auto& entries = self.heap<DictHeap>()->entries();
  RETURN_IF_ERROR(env.Spend(2 * entries.size()));
  std::vector<Value> items;
  items.reserve(entries.size());
  for (const auto& [key, value] : entries) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      items.push_back(MakeSequence(Type::kTuple, {key, value}));
    }
  }
  return MakeView(name == "keys" ? "dict_keys" : name == "values" ? "dict_values" : "dict_items", std::move(items));
}

absl::StatusOr<Value> DictCopy(Env&, const Value& self, absl::string_view name, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(name, args, {}).status());
  return self;  // dicts never change, so a copy need not be another one
}

absl::StatusOr<Value> SequenceSearch(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(name, args, {"value"}, 1));
  int64_t hits = 0;
  for (size_t i = 0; i < self.items().size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(env, self.items()[i], a[0]));
    if (equal && name == "index") return Value::Int(static_cast<int64_t>(i));
    hits += equal ? 1 : 0;
  }
  if (name == "index") return Invalid("the value is not in the list");
  return Value::Int(hits);
}

struct MethodRow {
  absl::string_view name;
  Method call;  // null: exists in Python, outside the subset
};
constexpr MethodRow kTextMethods[] = {
    {"strip", Strip},
    {"lstrip", Strip},
    {"rstrip", Strip},
    {"upper", ChangeCase},
    {"lower", ChangeCase},
    {"title", ChangeCase},
    {"capitalize", ChangeCase},
    {"swapcase", ChangeCase},
    {"replace", Replace},
    {"startswith", Affix},
    {"endswith", Affix},
    {"find", Search},
    {"rfind", Search},
    {"index", Search},
    {"rindex", Search},
    {"count", Search},
    {"split", Split},
    {"rsplit", Split},
    {"splitlines", SplitLinesMethod},
    {"partition", Partition},
    {"rpartition", Partition},
    {"removeprefix", RemoveAffix},
    {"removesuffix", RemoveAffix},
    {"ljust", Pad},
    {"rjust", Pad},
    {"center", Pad},
    {"zfill", Pad},
    {"join", Join},
    {"isalpha", Classify},
    {"isdigit", Classify},
    {"isdecimal", Classify},
    {"isnumeric", Classify},
    {"isalnum", Classify},
    {"isspace", Classify},
    {"isascii", Classify},
    {"isprintable", Classify},
    {"islower", Classify},
    {"isupper", Classify},
    {"istitle", IsTitle},
    {"format", FormatMethod},
    {"casefold", nullptr},
    {"encode", nullptr},
    {"expandtabs", nullptr},
    {"format_map", nullptr},
    {"isidentifier", nullptr},
    {"maketrans", nullptr},
    {"translate", nullptr},
};
constexpr MethodRow kDictMethods[] = {
    {"get", DictGet},    {"keys", DictView}, {"values", DictView},
    {"items", DictView}, {"copy", DictCopy}, {"fromkeys", nullptr},
};
constexpr MethodRow kSequenceMethods[] = {{"index", SequenceSearch}, {"count", SequenceSearch}};
constexpr absl::string_view kUnsafeDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr absl::string_view kUnsafeList[] = {"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"};

template <size_t N>
const MethodRow* Lookup(const MethodRow (&rows)[N], absl::string_view name) {
  const MethodRow* row = std::find_if(rows, rows + N, [&](const MethodRow& r) { return r.name == name; });
  return row == rows + N ? nullptr : row;
}

const MethodRow* FindRow(const Value& self, absl::string_view name) {
  if (self.is_string()) return Lookup(kTextMethods, name);
  if (self.is_dict()) return Lookup(kDictMethods, name);
  if (self.is(Type::kList) && name == "copy") return Lookup(kDictMethods, name);
  if (self.is(Type::kList) || self.is(Type::kTuple) || self.is(Type::kRange)) return Lookup(kSequenceMethods, name);
  return nullptr;
}

}  // namespace

MethodKind FindMethod(const Value& self, absl::string_view name) {
  if (FindRow(self, name) != nullptr) return MethodKind::kUsable;
  const auto listed = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  const bool unsafe = (self.is_dict() && listed(kUnsafeDict)) || (self.is(Type::kList) && listed(kUnsafeList));
  return unsafe ? MethodKind::kUnsafe : MethodKind::kNone;
}

absl::StatusOr<Value> CallMethod(Env& env, const Value& self, absl::string_view name, const CallArgs& args) {
  const MethodRow* row = FindRow(self, name);
  if (row == nullptr || row->call == nullptr) {
    return absl::UnimplementedError(absl::StrCat("method '", name, "' of '", TypeName(self), "' is not supported"));
  }
  return row->call(env, self, name, args);
}

}  // namespace dunlin::model::jinja
