// for statements and the `loop` object.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/ops.h"

namespace dunlin::model::jinja {

using Type = Value::Type;

absl::StatusOr<Interpreter::Flow> Interpreter::ExecFor(const Stmt& stmt, std::shared_ptr<Scope> scope,
                                                       const Value& iterable, int depth0) {
  auto heap = std::make_shared<LoopHeap>();
  LoopHeap& loop = *heap;
  loop.statement = &stmt;
  loop.scope = scope;
  loop.depth0 = depth0;
  ASSIGN_OR_RETURN(loop.source, Iterate(env_, iterable));
  const Value loop_value = Value::Object(Type::kLoop, std::move(heap));
  if (stmt.condition == nullptr) loop.items.swap(loop.source);
  const std::shared_ptr<Scope> outer = std::exchange(scope_, nullptr);
  // As in Jinja, `else` runs unless some pass reached the end of the body: one left by break or continue does not
  // count.
  bool completed = false;
  const auto run = [&]() -> absl::StatusOr<Flow> {
    for (loop.index0 = 0;; ++loop.index0) {
      RETURN_IF_ERROR(FillLoop(loop, loop.index0 + 1));
      if (loop.index0 >= loop.items.size()) break;
      scope_ = std::make_shared<Scope>(Scope{scope, {}});
      scope_->variables.emplace(kLoopName, loop_value);
      RETURN_IF_ERROR(Assign(*stmt.target, loop.items[loop.index0]));
      ASSIGN_OR_RETURN(const Flow flow, Exec(stmt.body));
      if (flow == Flow::kBreak) break;
      completed = completed || flow == Flow::kNormal;
    }
    if (completed) return Flow::kNormal;
    return ExecIn(std::make_shared<Scope>(Scope{scope, {}}), stmt.else_body);
  };
  absl::StatusOr<Flow> flow = run();
  scope_ = outer;
  return flow;
}

// Has at least `count` elements ready, as far as there are that many.
absl::Status Interpreter::FillLoop(LoopHeap& loop, size_t count) {
  const Stmt& stmt = *loop.statement;
  if (stmt.condition == nullptr || loop.items.size() >= count || loop.taken == loop.source.size()) {
    return absl::OkStatus();
  }
  const std::shared_ptr<Scope> outer = std::exchange(scope_, nullptr);
  const auto run = [&]() -> absl::Status {
    while (loop.items.size() < count && loop.taken < loop.source.size()) {
      const Value item = loop.source[loop.taken++];
      scope_ = std::make_shared<Scope>(Scope{loop.scope, {}});
      RETURN_IF_ERROR(Assign(*stmt.target, item));
      ASSIGN_OR_RETURN(const Value wanted, Eval(*stmt.condition));
      if (Truthy(wanted)) loop.items.push_back(item);
    }
    return absl::OkStatus();
  };
  const absl::Status status = run();
  scope_ = outer;
  return status;
}

absl::StatusOr<Value> Interpreter::LoopAttribute(const Value& loop_value, absl::string_view name) {
  LoopHeap& loop = *loop_value.heap<LoopHeap>();
  const auto number = [](size_t n) { return Value::Int(static_cast<int64_t>(n)); };
  if (name == "index") return number(loop.index0 + 1);
  if (name == "index0") return number(loop.index0);
  if (name == "first") return Value::Bool(loop.index0 == 0);
  if (name == "depth") return Value::Int(loop.depth0 + 1);
  if (name == "depth0") return Value::Int(loop.depth0);
  if (name == "previtem") {
    if (loop.index0 == 0 || loop.index0 > loop.items.size()) return Value::Undefined("there is no previous item");
    return loop.items[loop.index0 - 1];
  }
  if (name == "last" || name == "nextitem") {
    RETURN_IF_ERROR(FillLoop(loop, loop.index0 + 2));
    const bool last = loop.index0 + 1 >= loop.items.size();
    if (name == "last") return Value::Bool(last);
    return last ? Value::Undefined("there is no next item") : loop.items[loop.index0 + 1];
  }
  if (name == "length" || name == "revindex" || name == "revindex0") {
    RETURN_IF_ERROR(FillLoop(loop, loop.source.size() + loop.items.size()));
    const int64_t length = static_cast<int64_t>(loop.items.size());
    if (name == "length") return Value::Int(length);
    return Value::Int(length - static_cast<int64_t>(loop.index0) - (name == "revindex" ? 0 : 1));
  }
  if (name == "cycle" || name == "changed") {
    return Value::Object(Type::kMethod, std::make_shared<MethodHeap>(MethodHeap{loop_value, std::string(name)}));
  }
  return Value::Undefined(absl::StrCat("'LoopContext object' has no attribute '", name.substr(0, 200), "'"));
}

absl::StatusOr<Value> Interpreter::CallLoopMethod(const Value& loop_value, absl::string_view name,
                                                  const CallArgs& args) {
  LoopHeap& loop = *loop_value.heap<LoopHeap>();
  if (!args.keyword.empty()) return Invalid(absl::StrCat("loop.", name, " takes no keyword arguments"));
  if (name == "cycle") {
    if (args.positional.empty()) return Invalid("no items for cycling given");
    return args.positional[loop.index0 % args.positional.size()];
  }
  const bool first = !std::exchange(loop.changed_called, true);
  if (first) {
    RETURN_IF_ERROR(env_.Spend(4));
    remembering_loops_.push_back(loop_value);
  }
  bool changed = first || loop.last_changed.size() != args.positional.size();
  for (size_t i = 0; i < args.positional.size() && !changed; ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(env_, loop.last_changed[i], args.positional[i]));
    changed = !equal;
  }
  if (changed) loop.last_changed = args.positional;
  return Value::Bool(changed);
}

// loop(children) in a recursive for: the same statement over the children; gives what it prints.
absl::StatusOr<Value> Interpreter::CallLoop(LoopHeap& loop, const CallArgs& args) {
  if (!loop.statement->recursive) {
    return Invalid("The loop must have the 'recursive' marker to be called recursively.");
  }
  ASSIGN_OR_RETURN(const auto a, BindArgs("loop", args, {"iterable"}, 1));
  if (calls_ >= env_.limits().max_depth) return env_.TooDeep("calls");
  ++calls_;
  TextBuilder text(env_);
  TextBuilder* out = std::exchange(out_, &text);
  const absl::StatusOr<Flow> flow = ExecFor(*loop.statement, loop.scope, a[0], loop.depth0 + 1);
  out_ = out;
  --calls_;
  RETURN_IF_ERROR(flow.status());
  return text.Finish();
}

}  // namespace dunlin::model::jinja
