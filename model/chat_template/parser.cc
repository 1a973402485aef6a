// The token stream and statements.
#include "model/chat_template/parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace dunlin::model::jinja {

Parser::Parser(std::vector<Token> tokens, int max_depth) : tokens_(std::move(tokens)), max_depth_(max_depth) {
  for (const absl::string_view name : {"loop", "caller", "varargs", "kwargs"}) Intern(name);
}

int Parser::Intern(absl::string_view name) {
  const auto [it, inserted] = name_ids_.try_emplace(std::string(name), static_cast<int>(names_.size()));
  if (inserted) names_.emplace_back(name);
  for (Macro* macro : macros_) {
    macro->uses_caller |= it->second == kCallerName;
    macro->uses_varargs |= it->second == kVarargsName;
    macro->uses_kwargs |= it->second == kKwargsName;
  }
  return it->second;
}

bool Parser::IsWord(Words words) const {
  return std::any_of(words.begin(), words.end(), [&](absl::string_view word) { return IsWord(word); });
}

bool Parser::TakeWord(absl::string_view word) {
  if (!IsWord(word)) return false;
  ++at_;
  return true;
}

bool Parser::TakeOp(absl::string_view op) {
  if (!IsOp(op)) return false;
  ++at_;
  return true;
}

absl::Status Parser::Unexpected(absl::string_view expected) const {
  const Token& t = Current();
  const std::string got = t.kind == TokenKind::kEnd                                          ? "end of template"
                          : t.kind == TokenKind::kData                                       ? "template text"
                          : t.kind == TokenKind::kBlockEnd || t.kind == TokenKind::kPrintEnd ? "end of the tag"
                          : t.text.empty()                                                   ? "a tag"
                                           : absl::StrCat("'", t.text.substr(0, 80), "'");
  return ErrorAt(t.line, absl::StrCat("expected ", expected, ", got ", got));
}

absl::Status Parser::TooDeep() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("line ", Current().line, ": the template nests syntax deeper than max_depth = ", max_depth_));
}

absl::Status Parser::ExpectOp(absl::string_view op) {
  return TakeOp(op) ? absl::OkStatus() : Unexpected(absl::StrCat("'", op, "'"));
}

absl::Status Parser::ExpectWord(absl::string_view word) {
  return TakeWord(word) ? absl::OkStatus() : Unexpected(absl::StrCat("'", word, "'"));
}

absl::Status Parser::Expect(TokenKind kind, absl::string_view what) {
  if (!Is(kind)) return Unexpected(what);
  ++at_;
  return absl::OkStatus();
}

absl::StatusOr<std::string> Parser::ExpectName() {
  if (!Is(TokenKind::kName)) return Unexpected("a name");
  return tokens_[at_++].text;
}

std::unique_ptr<Stmt> Parser::NewStmt(StmtKind kind) const {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = Current().line;
  return stmt;
}

absl::StatusOr<std::unique_ptr<Program>> Parser::Parse() {
  auto program = std::make_unique<Program>();
  ASSIGN_OR_RETURN(program->body, ParseBody({}));
  program->names = std::move(names_);
  return program;
}

absl::StatusOr<Block> Parser::ParseBody(Words end_words) {
  const Level level(this);
  if (level.too_deep()) return TooDeep();
  Block body;
  while (!Is(TokenKind::kEnd)) {
    if (Is(TokenKind::kData)) {
      body.push_back(NewStmt(StmtKind::kText));
      body.back()->text = Value::String(tokens_[at_++].text);
    } else if (Is(TokenKind::kPrintBegin)) {
      ++at_;
      body.push_back(NewStmt(StmtKind::kPrint));
      ASSIGN_OR_RETURN(ExprPtr value, ParseTuple(/*with_conditional=*/true, /*parenthesised=*/false));
      body.back()->values.push_back(std::move(value));
      RETURN_IF_ERROR(Expect(TokenKind::kPrintEnd, "the end of the print tag"));
    } else {
      RETURN_IF_ERROR(Expect(TokenKind::kBlockBegin, "a tag"));
      if (IsWord(end_words)) return body;
      ASSIGN_OR_RETURN(auto stmt, ParseStatement());
      body.push_back(std::move(stmt));
      RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd, "the end of the tag"));
    }
  }
  if (end_words.size() > 0) return Unexpected(absl::StrCat("'", *(end_words.end() - 1), "'"));
  return body;
}

// The body between the end of this tag and end_word; stands before that tag's end.
absl::StatusOr<Block> Parser::ParseBodyOf(absl::string_view end_word) {
  RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd, "the end of the tag"));
  ASSIGN_OR_RETURN(Block body, ParseBody({end_word}));
  RETURN_IF_ERROR(ExpectWord(end_word));
  return body;
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseStatement() {
  if (!Is(TokenKind::kName)) return Unexpected("a tag name");
  if (IsWord("if")) return ParseIf();
  if (IsWord("for")) return ParseFor();
  if (IsWord("set")) return ParseSet();
  if (IsWord("with")) return ParseWith();
  if (IsWord("macro")) return ParseMacro();
  if (IsWord("call")) return ParseCallBlock();
  if (IsWord("filter")) return ParseFilterBlock();
  if (IsWord("generation")) return ParseGeneration();
  if (IsWord("print")) return ParsePrintStatement();
  if (IsWord({"break", "continue"})) {
    if (loops_ == 0) return ErrorAt(Current().line, absl::StrCat("'", Current().text, "' outside loop"));
    auto stmt = NewStmt(IsWord("break") ? StmtKind::kBreak : StmtKind::kContinue);
    ++at_;
    return stmt;
  }
  if (IsWord({"block", "extends", "include", "import", "from", "autoescape"})) {
    return absl::UnimplementedError(
        absl::StrCat("line ", Current().line, ": the tag '", Current().text, "' is not supported"));
  }
  return ErrorAt(Current().line, absl::StrCat("Encountered unknown tag '", Current().text.substr(0, 80), "'."));
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseIf() {
  auto stmt = NewStmt(StmtKind::kIf);
  ++at_;
  while (true) {
    Branch branch;
    ASSIGN_OR_RETURN(branch.condition, ParseTuple(/*with_conditional=*/false, /*parenthesised=*/false));
    RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd, "the end of the tag"));
    ASSIGN_OR_RETURN(branch.body, ParseBody({"elif", "else", "endif"}));
    stmt->branches.push_back(std::move(branch));
    if (TakeWord("elif")) continue;
    if (TakeWord("else")) {
      Branch otherwise;
      ASSIGN_OR_RETURN(otherwise.body, ParseBodyOf("endif"));
      stmt->branches.push_back(std::move(otherwise));
      return stmt;
    }
    RETURN_IF_ERROR(ExpectWord("endif"));
    return stmt;
  }
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseFor() {
  auto stmt = NewStmt(StmtKind::kFor);
  ++at_;
  ASSIGN_OR_RETURN(stmt->target, ParseTarget(/*with_namespace=*/false));
  RETURN_IF_ERROR(ExpectWord("in"));
  ASSIGN_OR_RETURN(stmt->iterable,
                   ParseTuple(/*with_conditional=*/false, /*parenthesised=*/false, /*before_recursive=*/true));
  if (TakeWord("if")) {
    ASSIGN_OR_RETURN(stmt->condition, ParseExpression());
  }
  stmt->recursive = TakeWord("recursive");
  RETURN_IF_ERROR(Expect(TokenKind::kBlockEnd, "the end of the tag"));
  ++loops_;
  ASSIGN_OR_RETURN(stmt->body, ParseBody({"endfor", "else"}));
  --loops_;
  if (TakeWord("else")) {
    ASSIGN_OR_RETURN(stmt->else_body, ParseBodyOf("endfor"));
    return stmt;
  }
  RETURN_IF_ERROR(ExpectWord("endfor"));
  return stmt;
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseSet() {
  auto stmt = NewStmt(StmtKind::kSet);
  ++at_;
  ASSIGN_OR_RETURN(stmt->target, ParseTarget(/*with_namespace=*/true));
  if (TakeOp("=")) {
    ASSIGN_OR_RETURN(stmt->iterable, ParseTuple(/*with_conditional=*/true, /*parenthesised=*/false));
    return stmt;
  }
  stmt->kind = StmtKind::kSetBlock;
  ExprPtr filter = NewExpr(ExprKind::kCaptured, Current().line);
  for (int chain = 0; IsOp("|"); ++chain) {
    if (depth_ + chain > max_depth_) return TooDeep();
    ++at_;
    ASSIGN_OR_RETURN(filter, ParseFilter(std::move(filter)));
  }
  stmt->filter = std::move(filter);
  ASSIGN_OR_RETURN(stmt->body, ParseBodyOf("endset"));
  return stmt;
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseWith() {
  auto stmt = NewStmt(StmtKind::kWith);
  ++at_;
  while (!Is(TokenKind::kBlockEnd)) {
    if (!stmt->targets.empty()) RETURN_IF_ERROR(ExpectOp(","));
    ASSIGN_OR_RETURN(ExprPtr target, ParseTarget(/*with_namespace=*/false));
    RETURN_IF_ERROR(ExpectOp("="));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    stmt->targets.push_back(std::move(target));
    stmt->values.push_back(std::move(value));
  }
  ASSIGN_OR_RETURN(stmt->body, ParseBodyOf("endwith"));
  return stmt;
}

absl::Status Parser::ParseSignature(Macro* macro) {
  RETURN_IF_ERROR(ExpectOp("("));
  while (!IsOp(")")) {
    if (!macro->parameters.empty()) RETURN_IF_ERROR(ExpectOp(","));
    const int line = Current().line;
    Parameter parameter;
    ASSIGN_OR_RETURN(parameter.spelling, ExpectName());
    parameter.name = Intern(parameter.spelling);
    if (TakeOp("=")) {
      ASSIGN_OR_RETURN(parameter.default_value, ParseExpression());
    } else if (!macro->parameters.empty() && macro->parameters.back().default_value != nullptr) {
      return ErrorAt(line, "non-default argument follows default argument");
    }
    macro->parameters.push_back(std::move(parameter));
  }
  return ExpectOp(")");
}

absl::Status Parser::ParseMacroBody(Macro* macro, absl::string_view end_word) {
  macros_.push_back(macro);
  const int loops_around = std::exchange(loops_, 0);  // break and continue do not leave a macro
  ASSIGN_OR_RETURN(macro->body, ParseBodyOf(end_word));
  loops_ = loops_around;
  macros_.pop_back();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseMacro() {
  auto stmt = NewStmt(StmtKind::kMacro);
  ++at_;
  stmt->macro = std::make_unique<Macro>();
  ASSIGN_OR_RETURN(stmt->macro->name, ExpectName());
  stmt->name = Intern(stmt->macro->name);
  RETURN_IF_ERROR(ParseSignature(stmt->macro.get()));
  RETURN_IF_ERROR(ParseMacroBody(stmt->macro.get(), "endmacro"));
  return stmt;
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseCallBlock() {
  auto stmt = NewStmt(StmtKind::kCallBlock);
  ++at_;
  stmt->macro = std::make_unique<Macro>();
  stmt->macro->name = "caller";
  if (IsOp("(")) RETURN_IF_ERROR(ParseSignature(stmt->macro.get()));
  ASSIGN_OR_RETURN(stmt->iterable, ParseExpression());
  if (stmt->iterable->kind != ExprKind::kCall) return ErrorAt(stmt->line, "expected call");
  RETURN_IF_ERROR(ParseMacroBody(stmt->macro.get(), "endcall"));
  return stmt;
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseFilterBlock() {
  auto stmt = NewStmt(StmtKind::kFilterBlock);
  ++at_;
  ASSIGN_OR_RETURN(stmt->filter, ParseFilter(NewExpr(ExprKind::kCaptured, Current().line)));
  for (int chain = 0; TakeOp("|"); ++chain) {
    if (depth_ + chain > max_depth_) return TooDeep();
    ASSIGN_OR_RETURN(stmt->filter, ParseFilter(std::move(stmt->filter)));
  }
  ASSIGN_OR_RETURN(stmt->body, ParseBodyOf("endfilter"));
  return stmt;
}

// {% generation %} marks an assistant's text for training; for a prompt it is just a scope.
absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParseGeneration() {
  auto stmt = NewStmt(StmtKind::kScope);
  ++at_;
  const int loops_around = std::exchange(loops_, 0);
  ASSIGN_OR_RETURN(stmt->body, ParseBodyOf("endgeneration"));
  loops_ = loops_around;
  return stmt;
}

absl::StatusOr<std::unique_ptr<Stmt>> Parser::ParsePrintStatement() {
  auto stmt = NewStmt(StmtKind::kPrint);
  ++at_;
  while (!Is(TokenKind::kBlockEnd)) {
    if (!stmt->values.empty()) RETURN_IF_ERROR(ExpectOp(","));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    stmt->values.push_back(std::move(value));
  }
  return stmt;
}

namespace {

absl::Status CheckTarget(const Expr& target) {
  if (target.kind == ExprKind::kName || target.kind == ExprKind::kNamespaceAt) return absl::OkStatus();
  if (target.kind != ExprKind::kTuple) return ErrorAt(target.line, "can't assign to this expression");
  for (const ExprPtr& part : target.operands) RETURN_IF_ERROR(CheckTarget(*part));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExprPtr> Parser::ParseTarget(bool with_namespace) {
  std::vector<ExprPtr> parts;
  bool is_tuple = false;
  const int line = Current().line;
  while (parts.empty() || TakeOp(",")) {
    is_tuple = is_tuple || !parts.empty();
    if (!parts.empty() && (IsWord("in") || IsOp("=") || Is(TokenKind::kBlockEnd))) break;
    if (with_namespace && Is(TokenKind::kName) && Ahead().kind == TokenKind::kOperator && Ahead().text == ".") {
      ExprPtr at = NewExpr(ExprKind::kNamespaceAt, Current().line);
      at->name = Intern(tokens_[at_].text);
      at_ += 2;
      ASSIGN_OR_RETURN(const std::string attribute, ExpectName());
      at->constant = Value::String(attribute);
      parts.push_back(std::move(at));
      continue;
    }
    ASSIGN_OR_RETURN(ExprPtr part, ParsePrimary());
    parts.push_back(std::move(part));
  }
  ExprPtr target = std::move(parts.front());
  if (is_tuple) {
    ExprPtr tuple = NewExpr(ExprKind::kTuple, line);
    tuple->operands.push_back(std::move(target));
    for (size_t i = 1; i < parts.size(); ++i) tuple->operands.push_back(std::move(parts[i]));
    target = std::move(tuple);
  }
  RETURN_IF_ERROR(CheckTarget(*target));
  return target;
}

}  // namespace dunlin::model::jinja
