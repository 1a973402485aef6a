// What follows a primary expression: attributes, subscripts, calls, filters, tests.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/parser.h"

namespace dunlin::model::jinja {

absl::StatusOr<ExprPtr> Parser::ParsePostfix(ExprPtr base) {
  for (int chain = 0;; ++chain) {
    if (depth_ + chain > max_depth_) return TooDeep();
    if (IsOp(".") || IsOp("[")) {
      ASSIGN_OR_RETURN(base, ParseSubscript(std::move(base)));
    } else if (IsOp("(")) {
      ASSIGN_OR_RETURN(base, ParseCall(std::move(base)));
    } else {
      return base;
    }
  }
}

absl::StatusOr<ExprPtr> Parser::ParseFilters(ExprPtr base) {
  for (int chain = 0;; ++chain) {
    if (depth_ + chain > max_depth_) return TooDeep();
    if (TakeOp("|")) {
      ASSIGN_OR_RETURN(base, ParseFilter(std::move(base)));
    } else if (IsWord("is")) {
      ASSIGN_OR_RETURN(base, ParseTest(std::move(base)));
    } else if (IsOp("(")) {
      ASSIGN_OR_RETURN(base, ParseCall(std::move(base)));
    } else {
      return base;
    }
  }
}

absl::StatusOr<ExprPtr> Parser::ParseSubscript(ExprPtr base) {
  const int line = Current().line;
  if (TakeOp(".")) {
    ExprPtr expr = NewExpr(ExprKind::kAttribute, line);
    if (Is(TokenKind::kName)) {
      expr->constant = Value::String(tokens_[at_++].text);
      expr->operands.push_back(std::move(base));
      return expr;
    }
    if (!Is(TokenKind::kInteger)) return Unexpected("a name or number");
    expr->kind = ExprKind::kItem;
    ASSIGN_OR_RETURN(ExprPtr index, ParseNumber());
    expr->operands.push_back(std::move(base));
    expr->operands.push_back(std::move(index));
    return expr;
  }
  RETURN_IF_ERROR(ExpectOp("["));
  ExprPtr expr = NewExpr(ExprKind::kItem, line);
  expr->operands.push_back(std::move(base));
  const auto parse_bound = [&]() -> absl::StatusOr<ExprPtr> {
    if (IsOp(":") || IsOp("]") || IsOp(",")) return ExprPtr();
    return ParseExpression();
  };
  if (IsOp("]")) return Unexpected("a subscript");
  ASSIGN_OR_RETURN(ExprPtr first, parse_bound());
  if (IsOp(":")) {
    expr->kind = ExprKind::kSlice;
    expr->operands.push_back(std::move(first));
    for (int i = 0; i < 2; ++i) {
      ExprPtr bound;
      if (TakeOp(":")) {
        ASSIGN_OR_RETURN(bound, parse_bound());
      }
      expr->operands.push_back(std::move(bound));
    }
  } else if (IsOp(",")) {
    ExprPtr tuple = NewExpr(ExprKind::kTuple, line);
    if (first == nullptr) return Unexpected("a subscript");
    tuple->operands.push_back(std::move(first));
    while (TakeOp(",") && !IsOp("]")) {
      ASSIGN_OR_RETURN(ExprPtr next, ParseExpression());
      tuple->operands.push_back(std::move(next));
    }
    expr->operands.push_back(std::move(tuple));
  } else {
    expr->operands.push_back(std::move(first));
  }
  RETURN_IF_ERROR(ExpectOp("]"));
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseCall(ExprPtr base) {
  ExprPtr expr = NewExpr(ExprKind::kCall, Current().line);
  expr->operands.push_back(std::move(base));
  ASSIGN_OR_RETURN(expr->arguments, ParseArguments());
  return expr;
}

absl::StatusOr<Arguments> Parser::ParseArguments() {
  const int line = Current().line;
  RETURN_IF_ERROR(ExpectOp("("));
  const absl::Status misplaced = ErrorAt(line, "invalid syntax for function call expression");
  Arguments args;
  bool first = true;
  while (!IsOp(")")) {
    if (!first) RETURN_IF_ERROR(ExpectOp(","));
    if (!first && IsOp(")")) break;
    first = false;
    if (TakeOp("*")) {
      if (args.star != nullptr || args.double_star != nullptr) return misplaced;
      ASSIGN_OR_RETURN(args.star, ParseExpression());
    } else if (TakeOp("**")) {
      if (args.double_star != nullptr) return misplaced;
      ASSIGN_OR_RETURN(args.double_star, ParseExpression());
    } else if (Is(TokenKind::kName) && Ahead().kind == TokenKind::kOperator && Ahead().text == "=") {
      if (args.double_star != nullptr) return misplaced;
      std::string name = Current().text;
      at_ += 2;
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      args.keyword.emplace_back(std::move(name), std::move(value));
    } else {
      if (args.star != nullptr || args.double_star != nullptr || !args.keyword.empty()) return misplaced;
      ASSIGN_OR_RETURN(ExprPtr value, ParseExpression());
      args.positional.push_back(std::move(value));
    }
  }
  RETURN_IF_ERROR(ExpectOp(")"));
  return args;
}

absl::StatusOr<std::string> Parser::ParseDottedName() {
  ASSIGN_OR_RETURN(std::string name, ExpectName());
  while (TakeOp(".")) {
    ASSIGN_OR_RETURN(const std::string part, ExpectName());
    absl::StrAppend(&name, ".", part);
  }
  return name;
}

absl::StatusOr<ExprPtr> Parser::ParseFilter(ExprPtr base) {
  ExprPtr expr = NewExpr(ExprKind::kFilter, Current().line);
  expr->operands.push_back(std::move(base));
  ASSIGN_OR_RETURN(const std::string name, ParseDottedName());
  expr->filter = FindFilter(name);
  if (expr->filter == nullptr) {
    return absl::UnimplementedError(absl::StrCat("line ", expr->line, ": no filter named '", name.substr(0, 80), "'"));
  }
  if (IsOp("(")) {
    ASSIGN_OR_RETURN(expr->arguments, ParseArguments());
  }
  return expr;
}

absl::StatusOr<ExprPtr> Parser::ParseTest(ExprPtr base) {
  ExprPtr expr = NewExpr(ExprKind::kTest, Current().line);
  expr->operands.push_back(std::move(base));
  RETURN_IF_ERROR(ExpectWord("is"));
  const bool negated = TakeWord("not");
  ASSIGN_OR_RETURN(const std::string name, ParseDottedName());
  expr->test = FindTest(name);
  if (expr->test == nullptr) {
    return absl::UnimplementedError(absl::StrCat("line ", expr->line, ": no test named '", name.substr(0, 80), "'"));
  }
  const bool bare_argument = Is(TokenKind::kString) || Is(TokenKind::kInteger) || Is(TokenKind::kFloat) || IsOp("[") ||
                             IsOp("{") || (Is(TokenKind::kName) && !IsWord({"else", "or", "and"}));
  if (IsOp("(")) {
    ASSIGN_OR_RETURN(expr->arguments, ParseArguments());
  } else if (bare_argument) {
    if (IsWord("is")) return ErrorAt(Current().line, "You cannot chain multiple tests with is");
    ASSIGN_OR_RETURN(ExprPtr argument, ParsePrimary());
    ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    expr->arguments.positional.push_back(std::move(argument));
  }
  if (!negated) return expr;
  ExprPtr negation = NewExpr(ExprKind::kNot, expr->line);
  negation->operands.push_back(std::move(expr));
  return negation;
}

}  // namespace dunlin::model::jinja
