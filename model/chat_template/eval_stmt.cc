// Statements, loops aside; start and end of a rendering.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/ops.h"

namespace dunlin::model::jinja {

using Type = Value::Type;

Interpreter::Interpreter(const Program& program, const ChatTemplateLimits& limits, absl::CivilSecond now)
    : program_(program), env_(limits, now), globals_(program.names.size()), scope_(std::make_shared<Scope>()) {
  constexpr std::pair<absl::string_view, FunctionId> kFunctions[] = {{"range", kRange},
                                                                     {"dict", kDict},
                                                                     {"namespace", kNamespace},
                                                                     {"raise_exception", kRaiseException},
                                                                     {"strftime_now", kStrftimeNow}};
  for (size_t i = 0; i < globals_.size(); ++i) {
    for (const auto& [name, id] : kFunctions) {
      if (program.names[i] == name) globals_[i] = Value::Function(id);
    }
  }
}

Interpreter::~Interpreter() {
  // Moved out of the objects first, so that destroying one member never meets a half-destroyed one.
  for (const auto& scope : closures_) {
    const auto dropped = std::move(scope->variables);
    scope->variables.clear();
  }
  for (const auto& attributes : namespaces_) attributes->Clear();
  for (const Value& loop : remembering_loops_) {
    const auto dropped = std::move(loop.heap<LoopHeap>()->last_changed);
    loop.heap<LoopHeap>()->last_changed.clear();
  }
}

absl::StatusOr<MarkedText> Interpreter::Run(const Value& variables) {
  if (!variables.is_dict()) return Invalid("the template variables must be an object");
  for (size_t i = 0; i < program_.names.size(); ++i) {
    const Value* v = variables.Find(program_.names[i]);
    if (v != nullptr) scope_->variables.emplace(static_cast<int>(i), *v);
  }
  // Template variables and what the template sets at its top level are one scope, as in Jinja's context.
  TextBuilder out(env_);
  out_ = &out;
  const absl::StatusOr<Flow> flow = Exec(program_.body);
  out_ = nullptr;
  RETURN_IF_ERROR(flow.status());
  return std::move(out.text());
}

absl::StatusOr<Interpreter::Flow> Interpreter::Exec(const Block& block) {
  const Nested nested(this);
  if (nested.too_deep()) return env_.TooDeep("calls and statements");
  for (const auto& stmt : block) {
    line_ = stmt->line;
    RETURN_IF_ERROR(env_.Spend(1));
    ASSIGN_OR_RETURN(const Flow flow, ExecOne(*stmt));
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecIn(std::shared_ptr<Scope> scope, const Block& block) {
  std::swap(scope_, scope);
  absl::StatusOr<Flow> flow = Exec(block);
  std::swap(scope_, scope);
  return flow;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecOne(const Stmt& stmt) {
  switch (stmt.kind) {
    case StmtKind::kText:
      RETURN_IF_ERROR(Print(stmt.text));
      break;
    case StmtKind::kPrint:
      for (const ExprPtr& expr : stmt.values) {
        ASSIGN_OR_RETURN(const Value v, Eval(*expr));
        RETURN_IF_ERROR(Print(v));
      }
      break;
    case StmtKind::kIf:
      return ExecIf(stmt);
    case StmtKind::kFor: {
      ASSIGN_OR_RETURN(const Value iterable, Eval(*stmt.iterable));
      return ExecFor(stmt, scope_, iterable, 0);
    }
    case StmtKind::kSet: {
      ASSIGN_OR_RETURN(const Value v, Eval(*stmt.iterable));
      RETURN_IF_ERROR(Assign(*stmt.target, v));
      break;
    }
    case StmtKind::kSetBlock:
      RETURN_IF_ERROR(ExecSetBlock(stmt));
      break;
    case StmtKind::kMacro:
      RETURN_IF_ERROR(env_.Spend(4));
      scope_->variables[stmt.name] = NewMacro(stmt.macro.get());
      break;
    case StmtKind::kCallBlock:
      RETURN_IF_ERROR(ExecCallBlock(stmt));
      break;
    case StmtKind::kFilterBlock:
      RETURN_IF_ERROR(ExecFilterBlock(stmt));
      break;
    case StmtKind::kWith:
      return ExecWith(stmt);
    case StmtKind::kScope:
      return ExecIn(std::make_shared<Scope>(Scope{scope_, {}}), stmt.body);
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNormal;
}

absl::Status Interpreter::Print(const Value& v) {
  RETURN_IF_ERROR(AppendStr(env_, v, out_));
  return out_->full() ? env_.TooManyBytes() : absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecIf(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches) {
    if (branch.condition != nullptr) {
      ASSIGN_OR_RETURN(const Value condition, Eval(*branch.condition));
      if (!Truthy(condition)) continue;
    }
    return Exec(branch.body);  // an if is no scope of its own
  }
  return Flow::kNormal;
}

absl::StatusOr<Interpreter::Flow> Interpreter::ExecWith(const Stmt& stmt) {
  auto scope = std::make_shared<Scope>(Scope{scope_, {}});
  std::vector<Value> values;  // all of them before any name is set
  for (const ExprPtr& expr : stmt.values) {
    ASSIGN_OR_RETURN(Value v, Eval(*expr));
    values.push_back(std::move(v));
  }
  std::swap(scope_, scope);
  absl::StatusOr<Flow> flow = Flow::kNormal;
  for (size_t i = 0; i < values.size() && flow.ok(); ++i) {
    if (absl::Status s = Assign(*stmt.targets[i], values[i]); !s.ok()) flow = std::move(s);
  }
  if (flow.ok()) flow = Exec(stmt.body);
  std::swap(scope_, scope);
  return flow;
}

absl::StatusOr<Value> Interpreter::Capture(std::shared_ptr<Scope> scope, const Block& block) {
  TextBuilder text(env_);
  TextBuilder* out = std::exchange(out_, &text);
  const absl::StatusOr<Flow> flow = ExecIn(std::move(scope), block);
  out_ = out;
  RETURN_IF_ERROR(flow.status());
  return text.Finish();
}

absl::Status Interpreter::ExecSetBlock(const Stmt& stmt) {
  ASSIGN_OR_RETURN(captured_, Capture(std::make_shared<Scope>(Scope{scope_, {}}), stmt.body));
  ASSIGN_OR_RETURN(const Value v, Eval(*stmt.filter));
  return Assign(*stmt.target, v);
}

absl::Status Interpreter::ExecFilterBlock(const Stmt& stmt) {
  ASSIGN_OR_RETURN(captured_, Capture(std::make_shared<Scope>(Scope{scope_, {}}), stmt.body));
  ASSIGN_OR_RETURN(const Value v, Eval(*stmt.filter));
  return Print(v);
}

absl::Status Interpreter::ExecCallBlock(const Stmt& stmt) {
  RETURN_IF_ERROR(env_.Spend(4));
  const Value caller = NewMacro(stmt.macro.get());
  ASSIGN_OR_RETURN(const Value v, EvalCall(*stmt.iterable, &caller));
  return Print(v);
}

Value Interpreter::NewMacro(const Macro* macro) {
  // A macro holds its scope and a scope its macros.
  if (closures_.empty() || closures_.back() != scope_) closures_.push_back(scope_);
  return Value::Object(Type::kMacro, std::make_shared<MacroHeap>(MacroHeap{macro, scope_}));
}

absl::Status Interpreter::Assign(const Expr& target, const Value& v) {
  RETURN_IF_ERROR(env_.Spend(1));
  if (target.kind == ExprKind::kName) {
    scope_->variables.insert_or_assign(target.name, v);
    return absl::OkStatus();
  }
  if (target.kind == ExprKind::kNamespaceAt) {
    ASSIGN_OR_RETURN(const Value ns, EvalName(target.name));
    if (!ns.is(Type::kNamespace)) return Invalid("cannot assign attribute on non-namespace object");
    ns.heap<DictHeap>()->Set(target.constant, v);
    return absl::OkStatus();
  }
  if (!IsIterable(v)) return Invalid(absl::StrCat("cannot unpack non-iterable ", TypeName(v), " object"));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(env_, v));
  const size_t expected = target.operands.size();
  if (items.size() > expected) return Invalid(absl::StrCat("too many values to unpack (expected ", expected, ")"));
  if (items.size() < expected) {
    return Invalid(absl::StrCat("not enough values to unpack (expected ", expected, ", got ", items.size(), ")"));
  }
  for (size_t i = 0; i < expected; ++i) RETURN_IF_ERROR(Assign(*target.operands[i], items[i]));
  return absl::OkStatus();
}

}  // namespace dunlin::model::jinja
