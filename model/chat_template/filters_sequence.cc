// Filters over whole sequences: length, join, first, last, list, items, dictsort, reverse, batch, slice, default.
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {

// map(attribute=...) and its kin; defined in filters_select.cc.
absl::StatusOr<Value> AttributeOf(Env& env, const Value& item, const Value& attribute);

namespace {

using Type = Value::Type;

absl::StatusOr<Value> LengthFilter(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("length", args, {}).status());
  ASSIGN_OR_RETURN(const size_t n, Length(env, v));
  return Value::Int(static_cast<int64_t>(n));
}

absl::StatusOr<Value> Default(Env&, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("default", args, {"default_value", "boolean"}));
  const bool absent = v.is_undefined() || (Truthy(a[1]) && !Truthy(v));
  if (!absent) return v;
  return args.positional.empty() && args.keyword.empty() ? Value::String("") : a[0];
}

absl::StatusOr<Value> Join(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("join", args, {"d", "attribute"}));
  ASSIGN_OR_RETURN(const Value separator, ToStr(env, a[0]));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, v));
  TextBuilder out(env);
  for (size_t i = 0; i < items.size() && !out.full(); ++i) {
    if (i > 0) out.Append(separator.text());
    RETURN_IF_ERROR(env.SpendBytes(separator.text().size()));
    Value item = items[i];
    if (!a[1].is_undefined() && !a[1].is_none()) {
      ASSIGN_OR_RETURN(item, AttributeOf(env, item, a[1]));
    }
    RETURN_IF_ERROR(AppendStr(env, item, &out));
  }
  return out.Finish();
}

absl::StatusOr<Value> First(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("first", args, {}).status());
  if (v.is(Type::kGenerator)) {
    SequenceHeap& heap = *v.heap<SequenceHeap>();
    if (heap.next < heap.items.size()) return heap.items[heap.next++];
  }
  if (v.is_string() && !v.text().empty()) return GetItem(env, v, Value::Int(0));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, v));
  return items.empty() ? Value::Undefined("No first item, sequence was empty.") : items.front();
}

absl::StatusOr<Value> Last(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("last", args, {}).status());
  if (v.is(Type::kGenerator)) return Invalid("'generator' object is not reversible");
  if (v.is_string() && !v.text().empty()) return GetItem(env, v, Value::Int(-1));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, v));
  return items.empty() ? Value::Undefined("No last item, sequence was empty.") : items.back();
}

absl::StatusOr<Value> List(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("list", args, {}).status());
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(env, v));
  return env.NewSequence(Type::kList, std::move(items));
}

std::vector<Value> Pairs(const Value& dict) {
  std::vector<Value> out;
  for (const auto& [key, value] : dict.heap<DictHeap>()->entries()) {
    out.push_back(MakeSequence(Type::kTuple, {key, value}));
  }
  return out;
}

// A generator, like every filter that yields: the error of a wrong type comes when somebody reads it.
absl::StatusOr<Value> Items(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("items", args, {}).status());
  if (v.is_undefined()) return MakeGenerator({}, absl::OkStatus());
  if (!v.is_dict()) return MakeGenerator({}, Invalid("Can only get item pairs from a mapping."));
  RETURN_IF_ERROR(env.Spend(2 * v.heap<DictHeap>()->entries().size()));
  return MakeGenerator(Pairs(v), absl::OkStatus());
}

absl::StatusOr<Value> DictSort(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("dictsort", args, {"case_sensitive", "by", "reverse"}));
  if (v.is_undefined()) return UndefinedError(v);
  if (!v.is_dict()) return Invalid(absl::StrCat("'", TypeName(v), "' object has no attribute 'items'"));
  const std::string by = a[1].is_string() ? a[1].text().bytes() : "key";
  if (by != "key" && by != "value") return Invalid("You can only sort by either \"key\" or \"value\"");
  const auto& entries = v.heap<DictHeap>()->entries();
  RETURN_IF_ERROR(env.Spend(2 * entries.size()));
  std::vector<Value> keys;
  for (const auto& [key, value] : entries) {
    keys.push_back(by == "key" ? key : value);
    if (Truthy(a[0]) || !keys.back().is_string()) continue;
    ASSIGN_OR_RETURN(keys.back(), MapCase(env, Value(keys.back()).text(), Case::kLower));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> order, SortedOrder(env, keys, Truthy(a[2])));
  const std::vector<Value> pairs = Pairs(v);
  std::vector<Value> out;
  for (const size_t i : order) out.push_back(pairs[i]);
  return env.NewSequence(Type::kList, std::move(out));
}

absl::StatusOr<Value> Reverse(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs("reverse", args, {}).status());
  if (v.is_string()) return GetSlice(env, v, Value::None(), Value::None(), Value::Int(-1));
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(env, v));
  std::reverse(items.begin(), items.end());
  // What Python cannot walk backwards is made a list first, and stays one.
  if (v.is(Type::kGenerator)) return env.NewSequence(Type::kList, std::move(items));
  return MakeGenerator(std::move(items), absl::OkStatus());
}

absl::StatusOr<int64_t> Count(const Value& v, absl::string_view filter) {
  ASSIGN_OR_RETURN(const int64_t n, AsInt(v));
  if (n < 1) return Invalid(absl::StrCat(filter, " needs a count of at least 1, not ", n));
  return n;
}

absl::StatusOr<Value> Batch(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("batch", args, {"linecount", "fill_with"}, 1));
  ASSIGN_OR_RETURN(const int64_t size, Count(a[0], "batch"));
  const absl::StatusOr<std::vector<Value>> iterated = Iterate(env, v);
  if (!iterated.ok()) return Yield({}, iterated.status());
  const std::vector<Value>& items = *iterated;
  std::vector<Value> rows;
  for (size_t i = 0; i < items.size();) {
    const size_t end = std::min(items.size(), i + static_cast<size_t>(size));
    std::vector<Value> row(items.begin() + static_cast<ptrdiff_t>(i), items.begin() + static_cast<ptrdiff_t>(end));
    if (!a[1].is_undefined() && !a[1].is_none() && row.size() < static_cast<size_t>(size)) {
      RETURN_IF_ERROR(env.CheckBytes(static_cast<size_t>(size)));
      RETURN_IF_ERROR(env.Spend(static_cast<size_t>(size)));
      row.resize(static_cast<size_t>(size), a[1]);
    }
    ASSIGN_OR_RETURN(Value made, env.NewSequence(Type::kList, std::move(row)));
    rows.push_back(std::move(made));
    i = end;
  }
  return MakeGenerator(std::move(rows), absl::OkStatus());
}

// `slices` columns; the first ones are one longer when the elements do not divide evenly.
absl::StatusOr<Value> Slice(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("slice", args, {"slices", "fill_with"}, 1));
  ASSIGN_OR_RETURN(const int64_t given, Count(a[0], "slice"));
  const absl::StatusOr<std::vector<Value>> iterated = Iterate(env, v);
  if (!iterated.ok()) return Yield({}, iterated.status());
  const std::vector<Value>& items = *iterated;
  const size_t slices = static_cast<size_t>(given);
  RETURN_IF_ERROR(env.CheckBytes(slices));
  RETURN_IF_ERROR(env.Spend(slices));
  const size_t each = items.size() / slices, longer = items.size() % slices;
  std::vector<Value> columns;
  size_t at = 0;
  for (size_t i = 0; i < slices; ++i) {
    const size_t end = at + each + (i < longer ? 1 : 0);
    std::vector<Value> column(items.begin() + static_cast<ptrdiff_t>(at), items.begin() + static_cast<ptrdiff_t>(end));
    if (!a[1].is_undefined() && !a[1].is_none() && i >= longer) column.push_back(a[1]);
    ASSIGN_OR_RETURN(Value made, env.NewSequence(Type::kList, std::move(column)));
    columns.push_back(std::move(made));
    at = end;
  }
  return MakeGenerator(std::move(columns), absl::OkStatus());
}

constexpr FilterRow kRows[] = {
    {"length", LengthFilter}, {"count", LengthFilter}, {"default", Default}, {"d", Default},   {"join", Join},
    {"first", First},         {"last", Last},          {"list", List},       {"items", Items}, {"dictsort", DictSort},
    {"reverse", Reverse},     {"batch", Batch},        {"slice", Slice},
};

}  // namespace

Filter FindSequenceFilter(absl::string_view name) { return LookUp(kRows, name); }

}  // namespace dunlin::model::jinja
