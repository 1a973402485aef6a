// Template source to tokens, with Jinja's whitespace rules already applied (private to the interpreter).
// Errors: kInvalidArgument with "line N: ".  Cost: linear in the source.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_LEXER_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_LEXER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::model::jinja {

enum class TokenKind {
  kData,
  kBlockBegin,
  kBlockEnd,
  kPrintBegin,
  kPrintEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd,
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // a string literal is decoded already, a number has lost its underscores
};

// trim_blocks and lstrip_blocks are on; one newline at the very end of the source is dropped; \r\n and \r become \n.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

absl::Status ErrorAt(int line, absl::string_view message);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_LEXER_H_
