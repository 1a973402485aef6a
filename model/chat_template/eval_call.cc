// Calls: arguments, macros, methods, global functions.
#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/format.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/methods.h"
#include "model/chat_template/ops.h"

namespace dunlin::model::jinja {

using Type = Value::Type;

namespace {
constexpr int64_t kMaxRange = 100'000;  // as Jinja's sandbox
}

absl::StatusOr<CallArgs> Interpreter::EvalArguments(const Arguments& arguments) {
  CallArgs out;
  for (const ExprPtr& expr : arguments.positional) {
    ASSIGN_OR_RETURN(Value v, Eval(*expr));
    out.positional.push_back(std::move(v));
  }
  for (const auto& [name, expr] : arguments.keyword) {
    ASSIGN_OR_RETURN(Value v, Eval(*expr));
    out.keyword.emplace_back(name, std::move(v));
  }
  if (arguments.star != nullptr) {
    ASSIGN_OR_RETURN(const Value star, Eval(*arguments.star));
    ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env_, star));
    out.positional.insert(out.positional.end(), items.begin(), items.end());
  }
  if (arguments.double_star != nullptr) {
    ASSIGN_OR_RETURN(const Value more, Eval(*arguments.double_star));
    if (!more.is_dict()) return Invalid(absl::StrCat("argument after ** must be a mapping, not ", TypeName(more)));
    const auto& entries = more.heap<DictHeap>()->entries();
    RETURN_IF_ERROR(env_.Spend(entries.size()));
    for (const auto& [key, value] : entries) {
      if (!key.is_string()) return Invalid("keywords must be strings");
      RETURN_IF_ERROR(env_.SpendBytes(key.text().size()));
      out.keyword.emplace_back(key.text().bytes(), value);
      out.input_names = out.input_names || key.text().has_input();
    }
  }
  return out;
}

absl::StatusOr<Value> Interpreter::EvalCall(const Expr& e, const Value* caller) {
  ASSIGN_OR_RETURN(const Value callee, Eval(*e.operands[0]));
  ASSIGN_OR_RETURN(CallArgs args, EvalArguments(e.arguments));
  if (caller != nullptr) args.keyword.emplace_back("caller", *caller);
  return Call(callee, args);
}

absl::StatusOr<Value> Interpreter::Call(const Value& callee, const CallArgs& args) {
  switch (callee.type()) {
    case Type::kUndefined:
      return UndefinedError(callee);
    case Type::kFunction:
      return CallFunction(callee.integer(), args);
    case Type::kMacro:
      return CallMacro(*callee.heap<MacroHeap>(), args);
    case Type::kLoop:
      return CallLoop(*callee.heap<LoopHeap>(), args);
    case Type::kMethod: {
      const MethodHeap& method = *callee.heap<MethodHeap>();
      if (method.self.is(Type::kLoop)) return CallLoopMethod(method.self, method.name, args);
      return CallMethod(env_, method.self, method.name, args);
    }
    default:
      return Invalid(absl::StrCat("'", TypeName(callee), "' object is not callable"));
  }
}

absl::StatusOr<Value> Interpreter::CallMacro(const MacroHeap& heap, const CallArgs& args) {
  if (calls_ >= env_.limits().max_depth) return env_.TooDeep("calls");
  ++calls_;
  auto scope = std::make_shared<Scope>(Scope{heap.scope, {}});
  absl::StatusOr<Value> result = Value();
  if (absl::Status bound = BindMacro(heap, args, scope.get()); !bound.ok()) {
    result = std::move(bound);
  } else {
    // Defaults are evaluated inside, where the parameters before them have their values.
    std::swap(scope_, scope);
    for (const Parameter& parameter : heap.macro->parameters) {
      if (scope_->variables.contains(parameter.name)) continue;
      Value v = Value::Undefined(absl::StrCat("parameter '", parameter.spelling, "' was not provided"));
      if (parameter.default_value != nullptr) {
        absl::StatusOr<Value> made = Eval(*parameter.default_value);
        if (!made.ok()) {
          result = made.status();
          break;
        }
        v = *std::move(made);
      }
      scope_->variables.emplace(parameter.name, std::move(v));
    }
    std::swap(scope_, scope);
    if (result.ok()) result = Capture(std::move(scope), heap.macro->body);
  }
  --calls_;
  return result;
}

absl::Status Interpreter::BindMacro(const MacroHeap& heap, const CallArgs& args, Scope* scope) {
  const Macro& macro = *heap.macro;
  const size_t expected = macro.parameters.size();
  for (size_t i = 0; i < std::min(expected, args.positional.size()); ++i) {
    scope->variables.emplace(macro.parameters[i].name, args.positional[i]);
  }
  if (args.positional.size() > expected && !macro.uses_varargs) {
    return Invalid(absl::StrCat("macro '", macro.name, "' takes not more than ", expected, " argument(s)"));
  }
  CallArgs rest;
  rest.input_names = args.input_names;
  bool caller_given = false;
  for (const auto& [name, value] : args.keyword) {
    const auto it =
        std::find_if(macro.parameters.begin(), macro.parameters.end(),
                     [&, spelled = absl::string_view(name)](const Parameter& p) { return p.spelling == spelled; });
    if (it != macro.parameters.end() && scope->variables.emplace(it->name, value).second) continue;
    if (name == "caller" && macro.uses_caller && !caller_given) {
      caller_given = scope->variables.emplace(kCallerName, value).second;
      if (caller_given) continue;
    }
    if (!macro.uses_kwargs) {
      return Invalid(absl::StrCat("macro '", macro.name, "' takes no keyword argument '", name, "'"));
    }
    rest.keyword.emplace_back(name, value);
  }
  if (macro.uses_caller) scope->variables.try_emplace(kCallerName, Value::Undefined("No caller defined"));
  if (macro.uses_kwargs) {
    auto dict = std::make_shared<DictHeap>();
    RETURN_IF_ERROR(FillDict("kwargs", rest, dict.get()));
    scope->variables.try_emplace(kKwargsName, Value::Object(Type::kDict, std::move(dict)));
  }
  if (macro.uses_varargs) {
    const size_t bound = std::min(expected, args.positional.size());
    std::vector<Value> extra(args.positional.begin() + static_cast<ptrdiff_t>(bound), args.positional.end());
    ASSIGN_OR_RETURN(Value varargs, env_.NewSequence(Type::kTuple, std::move(extra)));
    scope->variables.try_emplace(kVarargsName, std::move(varargs));
  }
  return absl::OkStatus();
}

// dict(mapping or pairs, name=value ...)
absl::Status Interpreter::FillDict(absl::string_view callee, const CallArgs& args, DictHeap* out) {
  const auto set = [&](const Value& key, const Value& value) -> absl::Status {
    RETURN_IF_ERROR(env_.Spend(1));
    if (key.is_string()) RETURN_IF_ERROR(env_.SpendBytes(2 * key.text().size()));
    return out->Set(key, value) ? absl::OkStatus() : Invalid(absl::StrCat("unhashable type: '", TypeName(key), "'"));
  };
  if (args.positional.size() > 1) return Invalid(absl::StrCat(callee, " expected at most 1 argument"));
  for (const Value& source : args.positional) {
    if (source.is_dict()) {
      for (const auto& [key, value] : source.heap<DictHeap>()->entries()) RETURN_IF_ERROR(set(key, value));
      continue;
    }
    ASSIGN_OR_RETURN(const std::vector<Value> pairs, Iterate(env_, source));
    for (const Value& pair : pairs) {
      ASSIGN_OR_RETURN(const std::vector<Value> parts, Iterate(env_, pair));
      if (parts.size() != 2) return Invalid("dictionary update sequence elements must have length 2");
      RETURN_IF_ERROR(set(parts[0], parts[1]));
    }
  }
  for (const auto& [name, value] : args.keyword) RETURN_IF_ERROR(set(args.NameValue(name), value));
  return out->depth() > env_.limits().max_depth ? env_.TooDeep("values") : absl::OkStatus();
}

absl::StatusOr<Value> Interpreter::Range(const CallArgs& args) {
  ASSIGN_OR_RETURN(const auto a, BindArgs("range", args, {"start", "stop", "step"}, 1));
  auto heap = std::make_shared<SequenceHeap>();
  ASSIGN_OR_RETURN(heap->start, AsInt(a[0]));
  if (args.positional.size() == 1) {
    heap->stop = std::exchange(heap->start, 0);
  } else {
    ASSIGN_OR_RETURN(heap->stop, AsInt(a[1]));
    if (args.positional.size() == 3) {
      ASSIGN_OR_RETURN(heap->step, AsInt(a[2]));
    }
  }
  if (heap->step == 0) return Invalid("range() arg 3 must not be zero");
  // Unsigned, as the distance of two int64 may not fit one.
  const bool up = heap->step > 0;
  const uint64_t low = static_cast<uint64_t>(up ? heap->start : heap->stop);
  const uint64_t high = static_cast<uint64_t>(up ? heap->stop : heap->start);
  const uint64_t stride = up ? static_cast<uint64_t>(heap->step) : 0 - static_cast<uint64_t>(heap->step);
  const bool empty = up ? heap->start >= heap->stop : heap->start <= heap->stop;
  const uint64_t count = empty ? 0 : (high - low - 1) / stride + 1;
  if (count > kMaxRange) {
    return absl::ResourceExhaustedError(absl::StrCat("range() of more than max range = ", kMaxRange, " elements"));
  }
  RETURN_IF_ERROR(env_.Spend(count));
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t offset = i * static_cast<uint64_t>(heap->step);
    heap->items.push_back(Value::Int(static_cast<int64_t>(static_cast<uint64_t>(heap->start) + offset)));
  }
  return Value::Object(Type::kRange, std::move(heap));
}

absl::StatusOr<Value> Interpreter::CallFunction(int64_t id, const CallArgs& args) {
  switch (id) {
    case kRange:
      return Range(args);
    case kDict: {
      auto dict = std::make_shared<DictHeap>();
      RETURN_IF_ERROR(FillDict("dict", args, dict.get()));
      return Value::Object(Type::kDict, std::move(dict));
    }
    case kNamespace: {
      RETURN_IF_ERROR(env_.Spend(4));
      auto attributes = std::make_shared<DictHeap>();
      namespaces_.push_back(attributes);
      RETURN_IF_ERROR(FillDict("namespace", args, attributes.get()));
      return Value::Object(Type::kNamespace, std::move(attributes));
    }
    case kRaiseException: {
      ASSIGN_OR_RETURN(const auto a, BindArgs("raise_exception", args, {"message"}, 1));
      ASSIGN_OR_RETURN(const Value message, ToStr(env_, a[0]));
      absl::Status raised = Invalid(message.text().view());
      raised.SetPayload(kRaisedPayload, absl::Cord());
      return raised;
    }
    case kStrftimeNow: {
      ASSIGN_OR_RETURN(const auto a, BindArgs("strftime_now", args, {"format"}, 1));
      if (!a[0].is_string()) return Invalid("strftime_now() needs a str");
      return FormatTime(env_, a[0].text());
    }
    default:
      return absl::InternalError("unknown function");
  }
}

}  // namespace dunlin::model::jinja
