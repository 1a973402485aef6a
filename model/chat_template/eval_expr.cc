// Evaluation of expressions, calls aside.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/ops.h"

namespace dunlin::model::jinja {

using Type = Value::Type;

absl::StatusOr<Value> Interpreter::Eval(const Expr& e) {
  const Nested nested(this);
  if (nested.too_deep()) return env_.TooDeep("calls and expressions");
  const int line = std::exchange(line_, e.line);
  RETURN_IF_ERROR(env_.Spend(1));
  absl::StatusOr<Value> v = EvalKind(e);
  if (v.ok()) line_ = line;
  return v;
}

absl::StatusOr<Value> Interpreter::EvalKind(const Expr& e) {
  switch (e.kind) {
    case ExprKind::kConstant:
      return e.constant;
    case ExprKind::kName:
      return EvalName(e.name);
    case ExprKind::kNamespaceAt:
      return absl::InternalError("a namespace target was evaluated");
    case ExprKind::kList:
    case ExprKind::kTuple:
      return EvalList(e);
    case ExprKind::kDict:
      return EvalDict(e);
    case ExprKind::kConditional:
    case ExprKind::kOr:
    case ExprKind::kAnd:
    case ExprKind::kNot:
      return EvalLogic(e);
    case ExprKind::kCompare:
      return EvalCompare(e);
    case ExprKind::kArithmetic:
      return EvalArithmetic(e);
    case ExprKind::kConcat:
      return EvalConcat(e);
    case ExprKind::kNegate: {
      ASSIGN_OR_RETURN(const Value v, Eval(*e.operands[0]));
      return Negate(v);
    }
    case ExprKind::kPlus: {
      ASSIGN_OR_RETURN(const Value v, Eval(*e.operands[0]));
      if (v.is_undefined()) return UndefinedError(v);
      if (v.is_integer()) return Value::Int(v.integer());
      if (v.is(Type::kFloat) || v.is(Type::kBigInt)) return v;
      return Invalid(absl::StrCat("bad operand type for unary +: '", TypeName(v), "'"));
    }
    case ExprKind::kAttribute:
    case ExprKind::kItem:
      return EvalAccess(e);
    case ExprKind::kSlice:
      return EvalSlice(e);
    case ExprKind::kCall:
      return EvalCall(e, nullptr);
    case ExprKind::kFilter: {
      ASSIGN_OR_RETURN(const Value v, Eval(*e.operands[0]));
      ASSIGN_OR_RETURN(const CallArgs args, EvalArguments(e.arguments));
      return e.filter(env_, v, args);
    }
    case ExprKind::kTest: {
      ASSIGN_OR_RETURN(const Value v, Eval(*e.operands[0]));
      ASSIGN_OR_RETURN(const CallArgs args, EvalArguments(e.arguments));
      ASSIGN_OR_RETURN(const bool holds, e.test(env_, v, args));
      return Value::Bool(holds);
    }
    case ExprKind::kCaptured:
      return captured_;
  }
  return absl::InternalError("unknown expression");
}

absl::StatusOr<Value> Interpreter::EvalName(int name) {
  size_t walked = 0;
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get(), ++walked) {
    if (scope->variables.empty()) continue;
    const auto it = scope->variables.find(name);
    if (it != scope->variables.end()) return it->second;
  }
  RETURN_IF_ERROR(env_.Spend(walked / 8));
  const Value& global = globals_[static_cast<size_t>(name)];
  if (!global.is_undefined()) return global;
  return Value::Undefined(
      absl::StrCat("'", program_.names[static_cast<size_t>(name)].substr(0, 200), "' is undefined"));
}

absl::StatusOr<Value> Interpreter::EvalList(const Expr& e) {
  std::vector<Value> items;
  items.reserve(e.operands.size());
  for (const ExprPtr& operand : e.operands) {
    ASSIGN_OR_RETURN(Value item, Eval(*operand));
    items.push_back(std::move(item));
  }
  return env_.NewSequence(e.kind == ExprKind::kList ? Type::kList : Type::kTuple, std::move(items));
}

absl::StatusOr<Value> Interpreter::EvalDict(const Expr& e) {
  auto heap = std::make_shared<DictHeap>();
  for (size_t i = 0; i < e.operands.size(); i += 2) {
    ASSIGN_OR_RETURN(Value key, Eval(*e.operands[i]));
    ASSIGN_OR_RETURN(Value value, Eval(*e.operands[i + 1]));
    if (key.is_string()) RETURN_IF_ERROR(env_.SpendBytes(2 * key.text().size()));
    const absl::string_view type = TypeName(key);
    if (!heap->Set(std::move(key), std::move(value))) return Invalid(absl::StrCat("unhashable type: '", type, "'"));
  }
  if (heap->depth() > env_.limits().max_depth) return env_.TooDeep("values");
  return Value::Object(Type::kDict, std::move(heap));
}

absl::StatusOr<Value> Interpreter::EvalLogic(const Expr& e) {
  if (e.kind == ExprKind::kConditional) {
    ASSIGN_OR_RETURN(const Value condition, Eval(*e.operands[1]));
    if (Truthy(condition)) return Eval(*e.operands[0]);
    if (e.operands[2] != nullptr) return Eval(*e.operands[2]);
    return Value::Undefined("the inline if-expression evaluated to false and no else section was defined.");
  }
  if (e.kind == ExprKind::kNot) {
    ASSIGN_OR_RETURN(const Value v, Eval(*e.operands[0]));
    return Value::Bool(!Truthy(v));
  }
  // `or` gives its first true operand, `and` its first false one; else the last.
  for (size_t i = 0;; ++i) {
    ASSIGN_OR_RETURN(Value v, Eval(*e.operands[i]));
    if (i + 1 == e.operands.size() || Truthy(v) == (e.kind == ExprKind::kOr)) return v;
  }
}

absl::StatusOr<Value> Interpreter::EvalCompare(const Expr& e) {
  ASSIGN_OR_RETURN(Value left, Eval(*e.operands[0]));
  for (size_t i = 0; i < e.ops.size(); ++i) {
    ASSIGN_OR_RETURN(Value right, Eval(*e.operands[i + 1]));
    ASSIGN_OR_RETURN(const bool holds, CompareValues(env_, e.ops[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvalArithmetic(const Expr& e) {
  ASSIGN_OR_RETURN(Value left, Eval(*e.operands[0]));
  for (size_t i = 0; i < e.ops.size(); ++i) {
    ASSIGN_OR_RETURN(const Value right, Eval(*e.operands[i + 1]));
    ASSIGN_OR_RETURN(left, Arithmetic(env_, e.ops[i], left, right));
  }
  return left;
}

absl::StatusOr<Value> Interpreter::EvalConcat(const Expr& e) {
  TextBuilder out(env_);
  for (const ExprPtr& operand : e.operands) {
    ASSIGN_OR_RETURN(const Value v, Eval(*operand));
    RETURN_IF_ERROR(AppendStr(env_, v, &out));
  }
  return out.Finish();
}

absl::StatusOr<Value> Interpreter::EvalAccess(const Expr& e) {
  ASSIGN_OR_RETURN(const Value obj, Eval(*e.operands[0]));
  if (e.kind == ExprKind::kAttribute) {
    if (obj.is(Type::kLoop)) return LoopAttribute(obj, e.constant.text().view());
    if (obj.is(Type::kMacro) && e.constant.text().view() == "name") {
      return Value::String(obj.heap<MacroHeap>()->macro->name);
    }
    return GetAttr(env_, obj, e.constant);
  }
  ASSIGN_OR_RETURN(const Value key, Eval(*e.operands[1]));
  if (obj.is(Type::kLoop) && key.is_string()) return LoopAttribute(obj, key.text().view());
  return GetItem(env_, obj, key);
}

absl::StatusOr<Value> Interpreter::EvalSlice(const Expr& e) {
  ASSIGN_OR_RETURN(const Value obj, Eval(*e.operands[0]));
  Value bounds[3] = {Value::None(), Value::None(), Value::None()};
  for (size_t i = 0; i < 3; ++i) {
    if (e.operands[i + 1] == nullptr) continue;
    ASSIGN_OR_RETURN(bounds[i], Eval(*e.operands[i + 1]));
  }
  return GetSlice(env_, obj, bounds[0], bounds[1], bounds[2]);
}

}  // namespace dunlin::model::jinja
