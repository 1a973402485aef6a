// Truth, identity, equality, order, containment, sorting.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

bool IsNumeric(const Value& v) { return v.is_number() || v.is(Type::kBigInt); }

// a <=> b for numbers: -1, 0, 1, or 2 when a NaN makes them unordered.
int CompareNumbers(const Value& a, const Value& b) {
  const auto sign = [](auto x, auto y) { return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2; };
  const auto is_negative = [](const Value& big) { return big.digits()[0] == '-'; };
  if (a.is(Type::kBigInt) && b.is(Type::kBigInt)) {
    const std::string &x = a.digits(), &y = b.digits();
    if (is_negative(a) != is_negative(b)) return is_negative(a) ? -1 : 1;
    const int magnitude = x.size() != y.size() ? sign(x.size(), y.size()) : sign(x.compare(y), 0);
    return is_negative(a) ? -magnitude : magnitude;
  }
  if (a.is(Type::kBigInt)) {
    if (b.is(Type::kFloat)) {
      double approximate = 0;
      ReadDouble(a.digits(), &approximate);
      return sign(approximate, b.number());
    }
    return is_negative(a) ? -1 : 1;
  }
  if (b.is(Type::kBigInt)) {
    const int flipped = CompareNumbers(b, a);
    return flipped == 2 ? 2 : -flipped;
  }
  if (a.is_integer() && b.is_integer()) return sign(a.integer(), b.integer());
  // long double holds every int64 exactly on the machines we build for.
  const auto wide = [](const Value& v) {
    return v.is_integer() ? static_cast<long double>(v.integer()) : static_cast<long double>(v.number());
  };
  return sign(wide(a), wide(b));
}

bool Holds(Op op, int order) {
  if (order == 2) return false;
  switch (op) {
    case Op::kLt:
      return order < 0;
    case Op::kLe:
      return order <= 0;
    case Op::kGt:
      return order > 0;
    default:
      return order >= 0;
  }
}

absl::string_view Symbol(Op op) {
  switch (op) {
    case Op::kLt:
      return "<";
    case Op::kLe:
      return "<=";
    case Op::kGt:
      return ">";
    default:
      return ">=";
  }
}

absl::StatusOr<bool> EqualItems(Env& env, const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(env, a[i], b[i]));
    if (!equal) return false;
  }
  return true;
}

absl::StatusOr<bool> EqualDicts(Env& env, const DictHeap& a, const DictHeap& b) {
  if (a.entries().size() != b.entries().size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const ptrdiff_t at = b.IndexOf(key);
    if (at < 0) return false;
    ASSIGN_OR_RETURN(const bool equal, Equals(env, value, b.entries()[static_cast<size_t>(at)].second));
    if (!equal) return false;
  }
  return true;
}

}  // namespace

bool Truthy(const Value& v) {
  switch (v.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kInt:
      return v.integer() != 0;
    case Type::kFloat:
      return v.number() != 0;
    case Type::kString:
      return !v.text().empty();
    case Type::kList:
    case Type::kTuple:
    case Type::kRange:
    case Type::kView:
      return !v.items().empty();
    case Type::kDict:
      return !v.heap<DictHeap>()->entries().empty();
    default:
      return true;  // big integers, generators, namespaces, callables
  }
}

bool Same(const Value& a, const Value& b) {
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::kUndefined:
    case Type::kNone:
      return true;
    case Type::kBool:
    case Type::kInt:
    case Type::kFunction:
      return a.integer() == b.integer();
    case Type::kFloat:
      return a.number() == b.number();
    case Type::kString:
      return a.text().view() == b.text().view();
    case Type::kBigInt:
      return a.digits() == b.digits();
    default:
      return a.identity() == b.identity();
  }
}

absl::StatusOr<bool> Equals(Env& env, const Value& a, const Value& b) {
  RETURN_IF_ERROR(env.Spend(1));
  if (IsNumeric(a) && IsNumeric(b)) return CompareNumbers(a, b) == 0;
  if (a.type() != b.type()) return false;
  if (a.is_string()) {
    RETURN_IF_ERROR(env.SpendBytes(a.text().size()));
    return a.text().view() == b.text().view();
  }
  if (Same(a, b)) return true;
  if (a.is_dict()) return EqualDicts(env, *a.heap<DictHeap>(), *b.heap<DictHeap>());
  if (a.is_sequence() && !a.is(Type::kGenerator)) return EqualItems(env, a.items(), b.items());
  return false;
}

absl::StatusOr<bool> Order(Env& env, Op op, const Value& a, const Value& b) {
  RETURN_IF_ERROR(env.Spend(1));
  if (a.is_undefined()) return UndefinedError(a);
  if (b.is_undefined()) return UndefinedError(b);
  if (IsNumeric(a) && IsNumeric(b)) return Holds(op, CompareNumbers(a, b));
  if (a.is_string() && b.is_string()) {
    RETURN_IF_ERROR(env.SpendBytes(a.text().size()));
    const int order = a.text().view().compare(b.text().view());  // UTF-8 sorts as its code points do
    return Holds(op, order < 0 ? -1 : order > 0 ? 1 : 0);
  }
  if (a.type() == b.type() && (a.is(Type::kList) || a.is(Type::kTuple))) {
    const std::vector<Value>&x = a.items(), &y = b.items();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      ASSIGN_OR_RETURN(const bool equal, Equals(env, x[i], y[i]));
      if (!equal) return Order(env, op, x[i], y[i]);
    }
    return Holds(op, x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0);
  }
  return Invalid(absl::StrCat("'", Symbol(op), "' not supported between instances of '", TypeName(a), "' and '",
                              TypeName(b), "'"));
}

absl::StatusOr<bool> Contains(Env& env, const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      if (item.is_undefined()) return UndefinedError(item);
      return Invalid(absl::StrCat("'in <string>' requires string as left operand, not ", TypeName(item)));
    }
    RETURN_IF_ERROR(env.SpendBytes(container.text().size() + item.text().size()));
    return FindText(container.text().view(), item.text().view(), 0) != absl::string_view::npos;
  }
  if (container.is_dict()) {
    std::string hash_key;
    if (!HashKey(item, &hash_key)) return Invalid(absl::StrCat("unhashable type: '", TypeName(item), "'"));
    return container.heap<DictHeap>()->IndexOf(item) >= 0;
  }
  if (!IsIterable(container)) {
    return Invalid(absl::StrCat("argument of type '", TypeName(container), "' is not iterable"));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env, container));
  for (const Value& candidate : items) {
    ASSIGN_OR_RETURN(const bool equal, Equals(env, candidate, item));
    if (equal) return true;
  }
  return false;
}

absl::StatusOr<bool> CompareValues(Env& env, Op op, const Value& a, const Value& b) {
  switch (op) {
    case Op::kEq:
      return Equals(env, a, b);
    case Op::kIn:
      return Contains(env, b, a);
    case Op::kNe:
    case Op::kNotIn: {
      ASSIGN_OR_RETURN(const bool positive, op == Op::kNe ? Equals(env, a, b) : Contains(env, b, a));
      return !positive;
    }
    default:
      return Order(env, op, a, b);
  }
}

// A bottom-up merge sort: std::stable_sort needs a consistent order, which values that fail to compare do not have.
absl::StatusOr<std::vector<size_t>> SortedOrder(Env& env, const std::vector<Value>& keys, bool reverse) {
  const size_t n = keys.size();
  std::vector<size_t> order(n), merged(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  for (size_t width = 1; width < n; width *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * width) {
      const size_t middle = std::min(begin + width, n), end = std::min(begin + 2 * width, n);
      size_t left = begin, right = middle;
      for (size_t out = begin; out < end; ++out) {
        bool take_right = left == middle;
        if (!take_right && right < end) {
          const Value &l = keys[order[left]], &r = keys[order[right]];
          ASSIGN_OR_RETURN(take_right, reverse ? Order(env, Op::kLt, l, r) : Order(env, Op::kLt, r, l));
        }
        merged[out] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

}  // namespace dunlin::model::jinja
