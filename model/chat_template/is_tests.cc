// Tests: "value is name(args)".
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/filters.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

// Tests that look at the type alone.
using Predicate = bool (*)(const Value& v);
struct PredicateRow {
  absl::string_view name;
  Predicate holds;
};
constexpr PredicateRow kPredicates[] = {
    {"defined", [](const Value& v) { return !v.is_undefined(); }},
    {"undefined", [](const Value& v) { return v.is_undefined(); }},
    {"none", [](const Value& v) { return v.is_none(); }},
    {"boolean", [](const Value& v) { return v.is(Type::kBool); }},
    {"true", [](const Value& v) { return v.is(Type::kBool) && v.integer() != 0; }},
    {"false", [](const Value& v) { return v.is(Type::kBool) && v.integer() == 0; }},
    {"integer", [](const Value& v) { return v.is(Type::kInt) || v.is(Type::kBigInt); }},
    {"float", [](const Value& v) { return v.is(Type::kFloat); }},
    {"number", [](const Value& v) { return v.is_number() || v.is(Type::kBigInt); }},
    {"string", [](const Value& v) { return v.is_string(); }},
    {"mapping", [](const Value& v) { return v.is_dict(); }},
    {"iterable", [](const Value& v) { return IsIterable(v); }},
    {"sequence",
     [](const Value& v) {
       return v.is_undefined() || v.is_string() || v.is_dict() || v.is(Type::kList) || v.is(Type::kTuple) ||
              v.is(Type::kRange);
     }},
    {"callable", [](const Value& v) { return v.is_undefined() || v.type() >= Type::kMethod; }},
    {"escaped", [](const Value&) { return false; }},
};

template <size_t row>
absl::StatusOr<bool> ByType(Env&, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(kPredicates[row].name, args, {}).status());
  return kPredicates[row].holds(v);
}

template <size_t... rows>
Test FindPredicate(absl::string_view name, std::index_sequence<rows...>) {
  Test found = nullptr;
  ((kPredicates[rows].name == name ? void(found = ByType<rows>) : void()), ...);
  return found;
}

template <Op op>
absl::StatusOr<bool> Compare(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("comparison test", args, {"other"}, 1));
  return CompareValues(env, op, v, a[0]);
}

absl::StatusOr<bool> SameAs(Env&, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("sameas", args, {"other"}, 1));
  return Same(v, a[0]);
}

absl::StatusOr<Value> Modulo(Env& env, const Value& v, const Value& by) {
  if (v.is_string()) return Invalid("not all arguments converted during string formatting");
  return Arithmetic(env, Op::kMod, v, by);
}

template <bool odd>
absl::StatusOr<bool> Parity(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(odd ? "odd" : "even", args, {}).status());
  ASSIGN_OR_RETURN(const Value rest, Modulo(env, v, Value::Int(2)));
  return Equals(env, rest, Value::Int(odd ? 1 : 0));
}

absl::StatusOr<bool> DivisibleBy(Env& env, const Value& v, const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("divisibleby", args, {"num"}, 1));
  ASSIGN_OR_RETURN(const Value rest, Modulo(env, v, a[0]));
  return Equals(env, rest, Value::Int(0));
}

template <bool upper>
absl::StatusOr<bool> HasCase(Env& env, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(upper ? "upper" : "lower", args, {}).status());
  ASSIGN_OR_RETURN(const Value s, ToStr(env, v));
  ASSIGN_OR_RETURN(const Value holds, CallMethod(env, s, upper ? "isupper" : "islower", {}));
  return Truthy(holds);
}

template <bool filter>
absl::StatusOr<bool> Exists(Env&, const Value& v, const CallArgs& args) {
  RETURN_IF_ERROR(BindArgs(filter ? "filter" : "test", args, {}).status());
  if (!v.is_string()) return false;
  return filter ? FindFilter(v.text().view()) != nullptr : FindTest(v.text().view()) != nullptr;
}

struct TestRow {
  absl::string_view name;
  Test test;
};
constexpr TestRow kRows[] = {
    {"eq", Compare<Op::kEq>},
    {"==", Compare<Op::kEq>},
    {"equalto", Compare<Op::kEq>},
    {"ne", Compare<Op::kNe>},
    {"!=", Compare<Op::kNe>},
    {"lt", Compare<Op::kLt>},
    {"<", Compare<Op::kLt>},
    {"lessthan", Compare<Op::kLt>},
    {"le", Compare<Op::kLe>},
    {"<=", Compare<Op::kLe>},
    {"gt", Compare<Op::kGt>},
    {">", Compare<Op::kGt>},
    {"greaterthan", Compare<Op::kGt>},
    {"ge", Compare<Op::kGe>},
    {">=", Compare<Op::kGe>},
    {"in", Compare<Op::kIn>},
    {"sameas", SameAs},
    {"odd", Parity<true>},
    {"even", Parity<false>},
    {"divisibleby", DivisibleBy},
    {"lower", HasCase<false>},
    {"upper", HasCase<true>},
    {"filter", Exists<true>},
    {"test", Exists<false>},
};

}  // namespace

Test FindTest(absl::string_view name) {
  for (const TestRow& row : kRows) {
    if (row.name == name) return row.test;
  }
  return FindPredicate(name, std::make_index_sequence<std::size(kPredicates)>());
}

}  // namespace dunlin::model::jinja
