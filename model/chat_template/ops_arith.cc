// + - * / // % ** and unary minus, as Python does them on 64-bit integers, floats, text and lists.
#include <cmath>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/format.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {
namespace {

using Type = Value::Type;

absl::string_view Symbol(Op op) {
  switch (op) {
    case Op::kAdd:
      return "+";
    case Op::kSub:
      return "-";
    case Op::kMul:
      return "*";
    case Op::kDiv:
      return "/";
    case Op::kFloorDiv:
      return "//";
    case Op::kMod:
      return "%";
    default:
      return "** or pow()";
  }
}

absl::Status Overflow() { return Invalid("an integer result does not fit in 64 bits"); }

absl::Status Unsupported(Op op, const Value& a, const Value& b) {
  if (op == Op::kAdd && (a.is_string() || a.is(Type::kList) || a.is(Type::kTuple))) {
    return Invalid(absl::StrCat("can only concatenate ", TypeName(a), " (not \"", TypeName(b), "\") to ", TypeName(a)));
  }
  return Invalid(
      absl::StrCat("unsupported operand type(s) for ", Symbol(op), ": '", TypeName(a), "' and '", TypeName(b), "'"));
}

absl::StatusOr<Value> IntPower(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return Invalid("0.0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t result = 1;
  for (bool square = false; exponent > 0; exponent >>= 1, square = true) {
    if (square && __builtin_mul_overflow(base, base, &base)) return Overflow();
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return Overflow();
  }
  return Value::Int(result);
}

absl::StatusOr<Value> IntArithmetic(Op op, int64_t a, int64_t b) {
  int64_t out = 0;
  switch (op) {
    case Op::kAdd:
      return __builtin_add_overflow(a, b, &out) ? absl::StatusOr<Value>(Overflow()) : Value::Int(out);
    case Op::kSub:
      return __builtin_sub_overflow(a, b, &out) ? absl::StatusOr<Value>(Overflow()) : Value::Int(out);
    case Op::kMul:
      return __builtin_mul_overflow(a, b, &out) ? absl::StatusOr<Value>(Overflow()) : Value::Int(out);
    case Op::kPow:
      return IntPower(a, b);
    default:
      break;
  }
  if (b == 0) return Invalid(op == Op::kDiv ? "division by zero" : "integer division or modulo by zero");
  if (op == Op::kDiv) return Value::Float(static_cast<double>(a) / static_cast<double>(b));
  if (b == -1) return op == Op::kMod ? Value::Int(0) : IntArithmetic(Op::kSub, 0, a);
  const bool adjust = a % b != 0 && (a % b < 0) != (b < 0);  // Python rounds down, C++ towards zero
  if (op == Op::kFloorDiv) return Value::Int(a / b - (adjust ? 1 : 0));
  return Value::Int(a % b + (adjust ? b : 0));
}

absl::StatusOr<Value> FloatArithmetic(Op op, double a, double b) {
  switch (op) {
    case Op::kAdd:
      return Value::Float(a + b);
    case Op::kSub:
      return Value::Float(a - b);
    case Op::kMul:
      return Value::Float(a * b);
    case Op::kPow: {
      if (a == 0 && b < 0) return Invalid("0.0 cannot be raised to a negative power");
      const double power = std::pow(a, b);
      if (std::isinf(power) && std::isfinite(a) && std::isfinite(b)) return Invalid("Numerical result out of range");
      if (std::isnan(power) && !std::isnan(a) && !std::isnan(b)) {
        return Invalid("a negative number has no real fractional power");
      }
      return Value::Float(power);
    }
    default:
      break;
  }
  if (b == 0) return Invalid(op == Op::kDiv ? "float division by zero" : "float floor division or modulo by zero");
  if (op == Op::kDiv) return Value::Float(a / b);
  double mod = std::fmod(a, b);
  double quotient = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) {
    mod += b;
    quotient -= 1;
  } else if (mod == 0) {
    mod = std::copysign(0.0, b);
  }
  if (op == Op::kMod) return Value::Float(mod);
  if (quotient == 0) return Value::Float(std::copysign(0.0, a / b));
  const double floor = std::floor(quotient);
  return Value::Float(quotient - floor > 0.5 ? floor + 1 : floor);
}

absl::StatusOr<Value> RepeatValue(Env& env, const Value& v, int64_t count) {
  const size_t times = count > 0 ? static_cast<size_t>(count) : 0;
  if (v.is_string()) {
    if (!v.text().empty() && times > env.limits().max_output_bytes / v.text().size()) return env.TooManyBytes();
    TextBuilder out(env);
    if (!v.text().empty()) RETURN_IF_ERROR(env.Spend(times / 16));
    out.Repeat(v.text(), times);
    return out.Finish();
  }
  const std::vector<Value>& items = v.items();
  if (!items.empty() && times > env.limits().max_output_bytes / items.size()) return env.TooManyBytes();
  RETURN_IF_ERROR(env.Spend(items.size() * times));
  std::vector<Value> out;
  out.reserve(items.size() * times);
  for (size_t i = 0; !items.empty() && i < times; ++i) out.insert(out.end(), items.begin(), items.end());
  return env.NewSequence(v.type(), std::move(out));
}

absl::StatusOr<Value> Concatenate(Env& env, const Value& a, const Value& b) {
  if (a.is_string()) {
    TextBuilder out(env);
    out.Append(a.text());
    out.Append(b.text());
    return out.Finish();
  }
  RETURN_IF_ERROR(env.CheckBytes(a.items().size() + b.items().size()));
  RETURN_IF_ERROR(env.Spend(a.items().size() + b.items().size()));
  std::vector<Value> items = a.items();
  items.insert(items.end(), b.items().begin(), b.items().end());
  return env.NewSequence(a.type(), std::move(items));
}

bool Repeats(const Value& v) { return v.is_string() || v.is(Type::kList) || v.is(Type::kTuple); }

}  // namespace

absl::StatusOr<Value> Arithmetic(Env& env, Op op, const Value& a, const Value& b) {
  if (op == Op::kMod && a.is_string()) return PercentFormat(env, a.text(), b);
  if (a.is_undefined()) return UndefinedError(a);
  if (b.is_undefined()) return UndefinedError(b);
  if (a.is_integer() && b.is_integer()) return IntArithmetic(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return FloatArithmetic(op, a.number(), b.number());
  if (op == Op::kAdd && a.type() == b.type() && Repeats(a)) return Concatenate(env, a, b);
  if (op == Op::kMul && Repeats(a) && b.is_integer()) return RepeatValue(env, a, b.integer());
  if (op == Op::kMul && Repeats(b) && a.is_integer()) return RepeatValue(env, b, a.integer());
  if (a.is(Type::kBigInt) || b.is(Type::kBigInt)) return Overflow();
  return Unsupported(op, a, b);
}

absl::StatusOr<Value> Negate(const Value& v) {
  if (v.is_undefined()) return UndefinedError(v);
  if (v.is_integer()) return IntArithmetic(Op::kSub, 0, v.integer());
  if (v.is(Type::kFloat)) return Value::Float(-v.number());
  if (v.is(Type::kBigInt)) return Overflow();
  return Invalid(absl::StrCat("bad operand type for unary -: '", TypeName(v), "'"));
}

absl::StatusOr<int64_t> AsInt(const Value& v) {
  if (v.is_integer()) return v.integer();
  if (v.is_undefined()) return UndefinedError(v);
  if (v.is(Type::kBigInt)) return Overflow();
  return Invalid(absl::StrCat("'", TypeName(v), "' object cannot be interpreted as an integer"));
}

}  // namespace dunlin::model::jinja
