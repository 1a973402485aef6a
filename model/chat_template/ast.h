// The syntax tree of a template (private to the interpreter).
// Thread-safety: immutable once parsed.  Owns: its children. Chains of equal operators are one node, so that the tree's
// depth is the nesting that the author wrote.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_AST_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/filters.h"
#include "model/chat_template/ops.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Block = std::vector<std::unique_ptr<Stmt>>;

enum class ExprKind {
  kConstant,     // constant
  kName,         // name
  kNamespaceAt,  // name.constant, as an assignment target only
  kList,         // operands
  kTuple,        // operands
  kDict,         // operands: key, value, key, value ...
  kConditional,  // operands: then, condition, else (may be null)
  kOr,           // operands, at least two
  kAnd,          // operands, at least two
  kNot,          // operands[0]
  kCompare,      // operands, ops between them
  kArithmetic,   // operands, ops between them, from the left
  kConcat,       // operands
  kNegate,       // operands[0]
  kPlus,         // operands[0]
  kAttribute,    // operands[0].constant
  kItem,         // operands[0][operands[1]]
  kSlice,        // operands[0][operands[1]:operands[2]:operands[3]], each of the three may be null
  kCall,         // operands[0](arguments)
  kFilter,       // operands[0] | name(arguments)
  kTest,         // operands[0] is name(arguments)
  kCaptured,     // the text that a filter or set block has collected
};

struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keyword;
  ExprPtr star, double_star;
};

struct Expr {
  ExprKind kind;
  int line;
  Value constant;
  int name = -1;  // interned
  std::vector<ExprPtr> operands;
  std::vector<Op> ops;
  Arguments arguments;
  Filter filter = nullptr;
  Test test = nullptr;
};

enum class StmtKind {
  kText,         // text
  kPrint,        // values
  kIf,           // branches; the last one may have no condition
  kFor,          // target in iterable if condition [recursive] body else else_body
  kSet,          // target = iterable
  kSetBlock,     // target = body, through filter
  kMacro,        // macro
  kCallBlock,    // iterable is the call, macro is the caller
  kFilterBlock,  // filter
  kWith,         // targets[i] = values[i], body
  kScope,        // body in a scope of its own
  kBreak,
  kContinue,
};

struct Parameter {
  int name;
  std::string spelling;
  ExprPtr default_value;  // may be null
};

struct Macro {
  std::string name;
  std::vector<Parameter> parameters;
  Block body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Branch {
  ExprPtr condition;
  Block body;
};

struct Stmt {
  StmtKind kind;
  int line;
  Value text;
  std::vector<ExprPtr> targets, values;
  ExprPtr target, iterable, condition, filter;
  std::vector<Branch> branches;
  Block body, else_body;
  bool recursive = false;
  int name = -1;  // of a macro, interned
  std::unique_ptr<Macro> macro;
};

// Names of variables as small numbers.
enum WellKnownName { kLoopName, kCallerName, kVarargsName, kKwargsName };

struct Program {
  Block body;
  std::vector<std::string> names;  // by number; the well-known ones first
};

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_AST_H_
