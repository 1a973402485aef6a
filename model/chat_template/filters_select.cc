// Filters that look into their elements: map, select, reject, selectattr, rejectattr, sort, unique, min, max, sum,
// attr.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {

// "a.b.0" of an item, as the attribute= arguments of filters mean it; an int is one subscript.
absl::StatusOr<Value> AttributeOf(Env& env, const Value& item, const Value& attribute) {
  if (attribute.is_none()) return item;
  if (!attribute.is_string()) return GetItem(env, item, attribute);
  Value v = item;
  const absl::string_view path = attribute.text().view();
  for (size_t i = 0; i <= path.size();) {
    RETURN_IF_ERROR(env.Spend(1));
    const size_t end = std::min(path.find('.', i), path.size());
    const absl::string_view part = path.substr(i, end - i);
    int64_t index = 0;
    const bool numeric =
        !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit) && absl::SimpleAtoi(part, &index);
    ASSIGN_OR_RETURN(v, GetItem(env, v, numeric ? Value::Int(index) : Value::String(part)));
    i = end + 1;
  }
  return v;
}

absl::StatusOr<Value> Yield(std::vector<Value> items, absl::Status failure) {
  if (absl::IsResourceExhausted(failure)) return failure;
  return MakeGenerator(std::move(items), std::move(failure));
}

namespace {

using Type = Value::Type;

// The name of a filter or test given as the first argument, and the arguments after it.
absl::StatusOr<CallArgs> Rest(const CallArgs& args, size_t name_at, absl::string_view what, std::string* name) {
  if (!args.positional[name_at].is_string()) return Invalid(absl::StrCat("the ", what, " name must be a string"));
  *name = args.positional[name_at].text().bytes();
  CallArgs rest = args;
  rest.positional.erase(rest.positional.begin(), rest.positional.begin() + static_cast<ptrdiff_t>(name_at) + 1);
  return rest;
}

absl::StatusOr<Value> MapAttribute(Env& env, const std::vector<Value>& items, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("map", args, {"attribute", "default"}));
  std::vector<Value> out;
  for (const Value& item : items) {
    absl::StatusOr<Value> made = AttributeOf(env, item, a[0]);
    if (!made.ok()) return Yield(std::move(out), made.status());
    const bool absent = made->is_undefined() && !a[1].is_undefined() && !a[1].is_none();
    out.push_back(absent ? a[1] : *std::move(made));
  }
  return Yield(std::move(out), absl::OkStatus());
}

absl::StatusOr<Value> Map(Env& env, const Value& v, const CallArgs& args) {
  if (!Truthy(v)) return MakeGenerator({}, absl::OkStatus());
  absl::StatusOr<std::vector<Value>> items = Iterate(env, v);
  if (!items.ok()) return Yield({}, items.status());
  if (args.positional.empty()) {
    const bool by_attribute =
        std::any_of(args.keyword.begin(), args.keyword.end(), [](const auto& kw) { return kw.first == "attribute"; });
    if (!by_attribute) return Invalid("map requires a filter argument");
    return MapAttribute(env, *items, args);
  }
  std::string name;
  ASSIGN_OR_RETURN(const CallArgs rest, Rest(args, 0, "filter", &name));
  const Filter filter = FindFilter(name);
  if (filter == nullptr) return Invalid(absl::StrCat("No filter named '", name, "'."));
  std::vector<Value> out;
  for (const Value& item : *items) {
    RETURN_IF_ERROR(env.Spend(1));
    absl::StatusOr<Value> made = filter(env, item, rest);
    if (!made.ok()) return Yield(std::move(out), made.status());
    if (made->depth() >= env.limits().max_depth) return env.TooDeep("values");
    out.push_back(*std::move(made));
  }
  return Yield(std::move(out), absl::OkStatus());
}

template <bool keep, bool by_attribute>
absl::StatusOr<Value> Select(Env& env, const Value& v, const CallArgs& args) {
  if (!Truthy(v)) return MakeGenerator({}, absl::OkStatus());
  absl::StatusOr<std::vector<Value>> items = Iterate(env, v);
  if (!items.ok()) return Yield({}, items.status());
  constexpr size_t kNameAt = by_attribute ? 1 : 0;
  if (by_attribute && args.positional.empty()) return Invalid("Missing parameter for attribute name");
  Test test = nullptr;  // truthiness
  CallArgs rest;
  if (args.positional.size() > kNameAt) {
    std::string name;
    ASSIGN_OR_RETURN(rest, Rest(args, kNameAt, "test", &name));
    test = FindTest(name);
    if (test == nullptr) return Invalid(absl::StrCat("No test named '", name, "'."));
  }
  std::vector<Value> out;
  for (const Value& item : *items) {
    RETURN_IF_ERROR(env.Spend(1));
    absl::StatusOr<Value> subject = by_attribute ? AttributeOf(env, item, args.positional[0]) : item;
    if (!subject.ok()) return Yield(std::move(out), subject.status());
    const absl::StatusOr<bool> holds = test == nullptr ? Truthy(*subject) : test(env, *subject, rest);
    if (!holds.ok()) return Yield(std::move(out), holds.status());
    if (*holds == keep) out.push_back(item);
  }
  return Yield(std::move(out), absl::OkStatus());
}

// The value that an element is ordered or told apart by.
absl::StatusOr<Value> SortKey(Env& env, const Value& item, const Value& attribute, bool case_sensitive) {
  Value key = item;
  if (!attribute.is_undefined() && !attribute.is_none()) {
    ASSIGN_OR_RETURN(key, AttributeOf(env, item, attribute));
  }
  if (case_sensitive || !key.is_string()) return key;
  return MapCase(env, key.text(), Case::kLower);
}

// sort(attribute="a,b") orders by several attributes.
absl::StatusOr<Value> MultiSortKey(Env& env, const Value& item, const Value& attribute, bool case_sensitive) {
  if (!attribute.is_string() || attribute.text().view().find(',') == absl::string_view::npos) {
    return SortKey(env, item, attribute, case_sensitive);
  }
  std::vector<Value> keys;
  const absl::string_view names = attribute.text().view();
  for (size_t i = 0; i <= names.size();) {
    const size_t end = std::min(names.find(',', i), names.size());
    ASSIGN_OR_RETURN(Value key, SortKey(env, item, Value::String(names.substr(i, end - i)), case_sensitive));
    keys.push_back(std::move(key));
    i = end + 1;
  }
  return env.NewSequence(Type::kList, std::move(keys));
}

absl::StatusOr<Value> Sort(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("sort", args, {"reverse", "case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, v));
  std::vector<Value> keys;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, MultiSortKey(env, item, a[2], Truthy(a[1])));
    keys.push_back(std::move(key));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(env, keys, Truthy(a[0])));
  std::vector<Value> out;
  for (const size_t i : order) out.push_back(items[i]);
  return env.NewSequence(Type::kList, std::move(out));
}

absl::StatusOr<Value> Unique(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("unique", args, {"case_sensitive", "attribute"}));
  const absl::StatusOr<std::vector<Value>> items = Iterate(env, v);
  if (!items.ok()) return Yield({}, items.status());
  absl::flat_hash_set<std::string> seen;
  std::vector<Value> out;
  for (const Value& item : *items) {
    RETURN_IF_ERROR(env.Spend(1));
    ASSIGN_OR_RETURN(const Value key, SortKey(env, item, a[1], Truthy(a[0])));
    std::string hash_key;
    if (!HashKey(key, &hash_key)) {
      return Yield(std::move(out), Invalid(absl::StrCat("unhashable type: '", TypeName(key), "'")));
    }
    RETURN_IF_ERROR(env.SpendBytes(hash_key.size()));
    if (seen.insert(std::move(hash_key)).second) out.push_back(item);
  }
  return Yield(std::move(out), absl::OkStatus());
}

template <bool want_max>
absl::StatusOr<Value> Extreme(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs(want_max ? "max" : "min", args, {"case_sensitive", "attribute"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, v));
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(Value key, SortKey(env, items[i], a[1], Truthy(a[0])));
    bool better = i == 0;
    if (!better) {
      ASSIGN_OR_RETURN(better, Order(env, want_max ? Op::kGt : Op::kLt, key, best_key));
    }
    if (better) best = i, best_key = std::move(key);
  }
  return items[best];
}

absl::StatusOr<Value> Sum(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("sum", args, {"attribute", "start"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, v));
  Value total = a[1].is_undefined() ? Value::Int(0) : a[1];
  if (total.is_string()) return Invalid("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : items) {
    RETURN_IF_ERROR(env.Spend(1));
    Value term = item;
    if (!a[0].is_undefined() && !a[0].is_none()) {
      ASSIGN_OR_RETURN(term, AttributeOf(env, item, a[0]));
    }
    ASSIGN_OR_RETURN(total, Arithmetic(env, Op::kAdd, total, term));
  }
  return total;
}

// An attribute in the narrow sense: a method, or a member of a namespace; never a dict's item.
absl::StatusOr<Value> Attr(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("attr", args, {"name"}, 1));
  if (!a[0].is_string()) return Invalid("attribute name must be string");
  if (!v.is_dict() || FindMethod(v, a[0].text().view()) != MethodKind::kNone) return GetAttr(env, v, a[0]);
  return Value::Undefined(absl::StrCat("'dict object' has no attribute '", a[0].text().view().substr(0, 200), "'"));
}

constexpr FilterRow kRows[] = {
    {"map", Map},
    {"select", Select<true, false>},
    {"reject", Select<false, false>},
    {"selectattr", Select<true, true>},
    {"rejectattr", Select<false, true>},
    {"sort", Sort},
    {"unique", Unique},
    {"min", Extreme<false>},
    {"max", Extreme<true>},
    {"sum", Sum},
    {"attr", Attr},
};

}  // namespace

Filter FindSelectionFilter(absl::string_view name) { return LookUp(kRows, name); }

}  // namespace dunlin::model::jinja
