// Expressions, loosest binding first.
#include <algorithm>
#include <charconv>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/parser.h"
#include "model/chat_template/pystr.h"

namespace dunlin::model::jinja {

ExprPtr Parser::NewExpr(ExprKind kind, int line) {
  auto expr = std::make_unique<Expr>();
  expr->kind = kind;
  expr->line = line;
  return expr;
}

bool Parser::AtTupleEnd(bool before_recursive) const {
  return Is(TokenKind::kPrintEnd) || Is(TokenKind::kBlockEnd) || IsOp(")") || (before_recursive && IsWord("recursive"));
}

absl::StatusOr<ExprPtr> Parser::ParseTuple(bool with_conditional, bool parenthesised, bool before_recursive) {
  ExprPtr tuple = NewExpr(ExprKind::kTuple, Current().line);
  bool is_tuple = false;
  while (true) {
    if (!tuple->operands.empty()) RETURN_IF_ERROR(ExpectOp(","));
    if (AtTupleEnd(before_recursive)) break;
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression(with_conditional));
    tuple->operands.push_back(std::move(item));
    if (!IsOp(",")) break;
    is_tuple = true;
  }
  if (is_tuple) return tuple;
  if (!tuple->operands.empty()) return std::move(tuple->operands.front());
  if (!parenthesised) return Unexpected("an expression");
  return tuple;
}

absl::StatusOr<ExprPtr> Parser::ParseExpression(bool with_conditional) {
  const Level level(this);
  if (level.too_deep()) return TooDeep();
  ASSIGN_OR_RETURN(ExprPtr expr, ParseOr());
  for (int chain = 0; with_conditional && IsWord("if"); ++chain) {
    if (depth_ + chain > max_depth_) return TooDeep();
    ExprPtr conditional = NewExpr(ExprKind::kConditional, Current().line);
    ++at_;
    ASSIGN_OR_RETURN(ExprPtr condition, ParseOr());
    ExprPtr otherwise;
    if (TakeWord("else")) {
      ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    conditional->operands.push_back(std::move(expr));
    conditional->operands.push_back(std::move(condition));
    conditional->operands.push_back(std::move(otherwise));
    expr = std::move(conditional);
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseOr() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseAnd());
  if (!IsWord("or")) return first;
  ExprPtr expr = NewExpr(ExprKind::kOr, Current().line);
  expr->operands.push_back(std::move(first));
  while (TakeWord("or")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseAnd());
    expr->operands.push_back(std::move(next));
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseAnd() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseNot());
  if (!IsWord("and")) return first;
  ExprPtr expr = NewExpr(ExprKind::kAnd, Current().line);
  expr->operands.push_back(std::move(first));
  while (TakeWord("and")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseNot());
    expr->operands.push_back(std::move(next));
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseNot() {
  if (!IsWord("not")) return ParseCompare();
  const Level level(this);
  if (level.too_deep()) return TooDeep();
  ExprPtr expr = NewExpr(ExprKind::kNot, Current().line);
  ++at_;
  ASSIGN_OR_RETURN(ExprPtr operand, ParseNot());
  expr->operands.push_back(std::move(operand));
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseCompare() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseSum());
  ExprPtr expr = NewExpr(ExprKind::kCompare, Current().line);
  expr->operands.push_back(std::move(first));
  constexpr std::pair<absl::string_view, Op> kOps[] = {{"==", Op::kEq}, {"!=", Op::kNe}, {"<", Op::kLt},
                                                       {"<=", Op::kLe}, {">", Op::kGt},  {">=", Op::kGe}};
  while (true) {
    const auto* op = std::find_if(std::begin(kOps), std::end(kOps), [&](const auto& o) { return IsOp(o.first); });
    if (op != std::end(kOps)) {
      ++at_;
      expr->ops.push_back(op->second);
    } else if (TakeWord("in")) {
      expr->ops.push_back(Op::kIn);
    } else if (IsWord("not") && Ahead().kind == TokenKind::kName && Ahead().text == "in") {
      at_ += 2;
      expr->ops.push_back(Op::kNotIn);
    } else {
      break;
    }
    ASSIGN_OR_RETURN(ExprPtr next, ParseSum());
    expr->operands.push_back(std::move(next));
  }
  return expr->ops.empty() ? std::move(expr->operands.front()) : std::move(expr);
}

absl::StatusOr<ExprPtr> Parser::ParseSum() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseConcat());
  ExprPtr expr = NewExpr(ExprKind::kArithmetic, Current().line);
  expr->operands.push_back(std::move(first));
  while (IsOp("+") || IsOp("-")) {
    expr->ops.push_back(IsOp("+") ? Op::kAdd : Op::kSub);
    ++at_;
    ASSIGN_OR_RETURN(ExprPtr next, ParseConcat());
    expr->operands.push_back(std::move(next));
  }
  return expr->ops.empty() ? std::move(expr->operands.front()) : std::move(expr);
}

absl::StatusOr<ExprPtr> Parser::ParseConcat() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseProduct());
  if (!IsOp("~")) return first;
  ExprPtr expr = NewExpr(ExprKind::kConcat, Current().line);
  expr->operands.push_back(std::move(first));
  while (TakeOp("~")) {
    ASSIGN_OR_RETURN(ExprPtr next, ParseProduct());
    expr->operands.push_back(std::move(next));
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseProduct() {
  ASSIGN_OR_RETURN(ExprPtr first, ParsePower());
  ExprPtr expr = NewExpr(ExprKind::kArithmetic, Current().line);
  expr->operands.push_back(std::move(first));
  while (IsOp("*") || IsOp("/") || IsOp("//") || IsOp("%")) {
    expr->ops.push_back(IsOp("*") ? Op::kMul : IsOp("/") ? Op::kDiv : IsOp("//") ? Op::kFloorDiv : Op::kMod);
    ++at_;
    ASSIGN_OR_RETURN(ExprPtr next, ParsePower());
    expr->operands.push_back(std::move(next));
  }
  return expr->ops.empty() ? std::move(expr->operands.front()) : std::move(expr);
}

absl::StatusOr<ExprPtr> Parser::ParsePower() {
  ASSIGN_OR_RETURN(ExprPtr first, ParseUnary());
  if (!IsOp("**")) return first;
  ExprPtr expr = NewExpr(ExprKind::kArithmetic, Current().line);
  expr->operands.push_back(std::move(first));
  while (TakeOp("**")) {
    expr->ops.push_back(Op::kPow);
    ASSIGN_OR_RETURN(ExprPtr next, ParseUnary());
    expr->operands.push_back(std::move(next));
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseUnary(bool with_filter) {
  ExprPtr expr;
  if (IsOp("-") || IsOp("+")) {
    const Level level(this);
    if (level.too_deep()) return TooDeep();
    expr = NewExpr(IsOp("-") ? ExprKind::kNegate : ExprKind::kPlus, Current().line);
    ++at_;
    ASSIGN_OR_RETURN(ExprPtr operand, ParseUnary(/*with_filter=*/false));
    expr->operands.push_back(std::move(operand));
  } else {
    ASSIGN_OR_RETURN(expr, ParsePrimary());
  }
  ASSIGN_OR_RETURN(expr, ParsePostfix(std::move(expr)));
  return with_filter ? ParseFilters(std::move(expr)) : std::move(expr);
}

absl::StatusOr<ExprPtr> Parser::ParsePrimary() {
  const Token& token = Current();
  ExprPtr expr = NewExpr(ExprKind::kConstant, token.line);
  switch (token.kind) {
    case TokenKind::kName:
      if (IsWord({"true", "True", "false", "False"})) {
        expr->constant = Value::Bool(IsWord({"true", "True"}));
      } else if (IsWord({"none", "None"})) {
        expr->constant = Value::None();
      } else {
        expr->kind = ExprKind::kName;
        expr->name = Intern(token.text);
      }
      ++at_;
      return expr;
    case TokenKind::kString: {
      std::string text;
      while (Is(TokenKind::kString)) text += tokens_[at_++].text;
      expr->constant = Value::String(text);
      return expr;
    }
    case TokenKind::kInteger:
    case TokenKind::kFloat:
      return ParseNumber();
    default:
      break;
  }
  if (TakeOp("(")) {
    ASSIGN_OR_RETURN(expr, ParseTuple(/*with_conditional=*/true, /*parenthesised=*/true));
    RETURN_IF_ERROR(ExpectOp(")"));
    return expr;
  }
  if (IsOp("[")) return ParseListLiteral();
  if (IsOp("{")) return ParseDictLiteral();
  return Unexpected("an expression");
}

absl::StatusOr<ExprPtr> Parser::ParseNumber() {
  const Token& token = tokens_[at_++];
  ExprPtr expr = NewExpr(ExprKind::kConstant, token.line);
  const std::string& text = token.text;
  if (token.kind == TokenKind::kFloat) {
    double number = 0;
    ReadDouble(text, &number);
    expr->constant = Value::Float(number);
    return expr;
  }
  const char prefix = text.size() > 2 ? text[1] : '0';
  const int base = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 10;
  int64_t number = 0;
  const char* begin = text.data() + (base == 10 ? 0 : 2);
  const auto result = std::from_chars(begin, text.data() + text.size(), number, base);
  if (result.ec == std::errc()) {
    expr->constant = Value::Int(number);
  } else if (base == 10 && text.size() <= 4300) {
    expr->constant = Value::BigInt(text);
  } else {
    return ErrorAt(token.line, "an integer literal is too large");
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseListLiteral() {
  ExprPtr expr = NewExpr(ExprKind::kList, Current().line);
  RETURN_IF_ERROR(ExpectOp("["));
  while (!IsOp("]")) {
    if (!expr->operands.empty()) RETURN_IF_ERROR(ExpectOp(","));
    if (IsOp("]")) break;
    ASSIGN_OR_RETURN(ExprPtr item, ParseExpression());
    expr->operands.push_back(std::move(item));
  }
  RETURN_IF_ERROR(ExpectOp("]"));
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseDictLiteral() {
  ExprPtr expr = NewExpr(ExprKind::kDict, Current().line);
  RETURN_IF_ERROR(ExpectOp("{"));
  while (!IsOp("}")) {
    if (!expr->operands.empty()) RETURN_IF_ERROR(ExpectOp(","));
    if (IsOp("}")) break;
    ASSIGN_OR_RETURN(ExprPtr key, ParseExpression());
    RETURN_IF_ERROR(ExpectOp(":"));
    ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
    expr->operands.push_back(std::move(key));
    expr->operands.push_back(std::move(value));
  }
  RETURN_IF_ERROR(ExpectOp("}"));
  return expr;
}

}  // namespace dunlin::model::jinja
