// Walks a template's syntax tree once (private to the interpreter's files).
// Thread-safety: one object, one rendering, one thread.  Borrows: the program.
// Errors: as ChatTemplate::Render, without the line; line() tells where the walk stood.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_INTERPRETER_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_INTERPRETER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "model/chat_template/args.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/env.h"
#include "model/chat_template/loop.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {

inline constexpr char kRaisedPayload[] = "dunlin/chat-template-raised";

// Variables of one block; what is not here is looked up in the parent.
struct Scope {
  std::shared_ptr<Scope> parent;
  absl::flat_hash_map<int, Value> variables;
};

struct MacroHeap {
  const Macro* macro = nullptr;
  std::shared_ptr<Scope> scope;  // where it was defined
};

class Interpreter {
 public:
  Interpreter(const Program& program, const ChatTemplateLimits& limits, absl::CivilSecond now);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  absl::StatusOr<MarkedText> Run(const Value& variables);
  int line() const { return line_; }

 private:
  enum class Flow { kNormal, kBreak, kContinue };
  class Nested;  // one level of evaluation while it lives

  // eval_stmt.cc
  absl::StatusOr<Flow> Exec(const Block& block);
  absl::StatusOr<Flow> ExecOne(const Stmt& stmt);
  absl::StatusOr<Flow> ExecIn(std::shared_ptr<Scope> scope, const Block& block);
  absl::StatusOr<Flow> ExecIf(const Stmt& stmt);
  absl::StatusOr<Flow> ExecWith(const Stmt& stmt);
  absl::Status Print(const Value& v);
  absl::Status ExecSetBlock(const Stmt& stmt);
  absl::Status ExecFilterBlock(const Stmt& stmt);
  absl::Status ExecCallBlock(const Stmt& stmt);
  absl::Status Assign(const Expr& target, const Value& v);
  // Runs `block` in `scope` and gives what it prints.
  absl::StatusOr<Value> Capture(std::shared_ptr<Scope> scope, const Block& block);
  Value NewMacro(const Macro* macro);

  // eval_loop.cc
  absl::StatusOr<Flow> ExecFor(const Stmt& stmt, std::shared_ptr<Scope> scope, const Value& iterable, int depth0);
  absl::Status FillLoop(LoopHeap& loop, size_t count);
  absl::StatusOr<Value> LoopAttribute(const Value& loop, absl::string_view name);
  absl::StatusOr<Value> CallLoop(LoopHeap& loop, const CallArgs& args);
  absl::StatusOr<Value> CallLoopMethod(const Value& loop, absl::string_view name, const CallArgs& args);

  // eval_expr.cc
  absl::StatusOr<Value> Eval(const Expr& e);
  absl::StatusOr<Value> EvalKind(const Expr& e);
  absl::StatusOr<Value> EvalName(int name);
  absl::StatusOr<Value> EvalList(const Expr& e);
  absl::StatusOr<Value> EvalDict(const Expr& e);
  absl::StatusOr<Value> EvalCompare(const Expr& e);
  absl::StatusOr<Value> EvalArithmetic(const Expr& e);
  absl::StatusOr<Value> EvalConcat(const Expr& e);
  absl::StatusOr<Value> EvalAccess(const Expr& e);
  absl::StatusOr<Value> EvalSlice(const Expr& e);
  absl::StatusOr<Value> EvalLogic(const Expr& e);

  // eval_call.cc
  absl::StatusOr<CallArgs> EvalArguments(const Arguments& arguments);
  absl::StatusOr<Value> EvalCall(const Expr& e, const Value* caller);
  absl::StatusOr<Value> Call(const Value& callee, const CallArgs& args);
  absl::StatusOr<Value> CallMacro(const MacroHeap& heap, const CallArgs& args);
  absl::Status BindMacro(const MacroHeap& heap, const CallArgs& args, Scope* scope);
  absl::StatusOr<Value> CallFunction(int64_t id, const CallArgs& args);
  absl::StatusOr<Value> Range(const CallArgs& args);
  absl::Status FillDict(absl::string_view callee, const CallArgs& args, DictHeap* out);

  const Program& program_;
  Env env_;
  std::vector<Value> globals_;  // by name; undefined where there is none
  std::shared_ptr<Scope> scope_;
  TextBuilder* out_ = nullptr;
  Value captured_;
  int depth_ = 0;
  int calls_ = 0;
  int line_ = 1;
  // Whatever can be part of a reference cycle: emptied at the end.
  std::vector<std::shared_ptr<Scope>> closures_;
  std::vector<std::shared_ptr<DictHeap>> namespaces_;
  std::vector<Value> remembering_loops_;
};

// Function ids of Value::Function.
enum FunctionId { kRange, kDict, kNamespace, kRaiseException, kStrftimeNow };

// Every evaluation inside another counts; the native stack is bounded by this.
class Interpreter::Nested {
 public:
  explicit Nested(Interpreter* interpreter) : interpreter_(interpreter) { ++interpreter_->depth_; }
  ~Nested() { --interpreter_->depth_; }
  Nested(const Nested&) = delete;
  Nested& operator=(const Nested&) = delete;
  bool too_deep() const { return interpreter_->depth_ > 4 * interpreter_->env_.limits().max_depth; }

 private:
  Interpreter* interpreter_;
};

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_INTERPRETER_H_
