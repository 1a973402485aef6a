// Tokens to syntax tree (private to the interpreter).
// Errors: kInvalidArgument "line N: ..." for what Jinja refuses too, kUnimplemented for what lies outside the subset,
// kResourceExhausted for syntax nested deeper than max_depth.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_PARSER_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_PARSER_H_

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/lexer.h"

namespace dunlin::model::jinja {

class Parser {
 public:
  Parser(std::vector<Token> tokens, int max_depth);
  absl::StatusOr<std::unique_ptr<Program>> Parse();

 private:
  using Words = std::initializer_list<absl::string_view>;

  // The stream (parser.cc).
  const Token& Current() const { return tokens_[at_]; }
  const Token& Ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  bool Is(TokenKind kind) const { return Current().kind == kind; }
  bool IsWord(absl::string_view word) const { return Is(TokenKind::kName) && Current().text == word; }
  bool IsWord(Words words) const;
  bool IsOp(absl::string_view op) const { return Is(TokenKind::kOperator) && Current().text == op; }
  bool TakeWord(absl::string_view word);
  bool TakeOp(absl::string_view op);
  absl::Status ExpectOp(absl::string_view op);
  absl::Status ExpectWord(absl::string_view word);
  absl::Status Expect(TokenKind kind, absl::string_view what);
  absl::StatusOr<std::string> ExpectName();
  absl::Status Unexpected(absl::string_view expected) const;
  int Intern(absl::string_view name);
  std::unique_ptr<Stmt> NewStmt(StmtKind kind) const;

  // Statements (parser.cc).
  absl::StatusOr<Block> ParseBody(Words end_words);  // stops after '{%' before an end word
  absl::StatusOr<Block> ParseBodyOf(absl::string_view end_word);
  absl::StatusOr<std::unique_ptr<Stmt>> ParseStatement();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseIf();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseFor();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseSet();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseWith();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseMacro();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseCallBlock();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseFilterBlock();
  absl::StatusOr<std::unique_ptr<Stmt>> ParseGeneration();
  absl::StatusOr<std::unique_ptr<Stmt>> ParsePrintStatement();
  absl::Status ParseSignature(Macro* macro);
  absl::Status ParseMacroBody(Macro* macro, absl::string_view end_word);
  absl::StatusOr<ExprPtr> ParseTarget(bool with_namespace);

  // Expressions (parse_expr.cc).
  static ExprPtr NewExpr(ExprKind kind, int line);
  absl::StatusOr<ExprPtr> ParseTuple(bool with_conditional, bool parenthesised, bool before_recursive = false);
  absl::StatusOr<ExprPtr> ParseExpression(bool with_conditional = true);
  absl::StatusOr<ExprPtr> ParseOr();
  absl::StatusOr<ExprPtr> ParseAnd();
  absl::StatusOr<ExprPtr> ParseNot();
  absl::StatusOr<ExprPtr> ParseCompare();
  absl::StatusOr<ExprPtr> ParseSum();
  absl::StatusOr<ExprPtr> ParseConcat();
  absl::StatusOr<ExprPtr> ParseProduct();
  absl::StatusOr<ExprPtr> ParsePower();
  absl::StatusOr<ExprPtr> ParseUnary(bool with_filter = true);
  absl::StatusOr<ExprPtr> ParsePrimary();
  absl::StatusOr<ExprPtr> ParseNumber();
  absl::StatusOr<ExprPtr> ParseListLiteral();
  absl::StatusOr<ExprPtr> ParseDictLiteral();
  absl::StatusOr<ExprPtr> ParsePostfix(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseFilters(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseFilter(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseTest(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseSubscript(ExprPtr base);
  absl::StatusOr<ExprPtr> ParseCall(ExprPtr base);
  absl::StatusOr<Arguments> ParseArguments();
  absl::StatusOr<std::string> ParseDottedName();
  bool AtTupleEnd(bool before_recursive) const;

  // Nesting: one level while it lives.
  class Level;
  absl::Status TooDeep() const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  const int max_depth_;
  int depth_ = 0;
  int loops_ = 0;  // for statements around, within the same macro
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, int> name_ids_;
  // Which of caller, varargs and kwargs the macros being parsed have named, innermost last.
  std::vector<Macro*> macros_;
};

class Parser::Level {
 public:
  explicit Level(Parser* parser) : parser_(parser) { ++parser_->depth_; }
  ~Level() { --parser_->depth_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;
  bool too_deep() const { return parser_->depth_ > parser_->max_depth_; }

 private:
  Parser* parser_;
};

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_PARSER_H_
