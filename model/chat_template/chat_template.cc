#include "model/chat_template/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/chat_template/ast.h"
#include "model/chat_template/interpreter.h"
#include "model/chat_template/lexer.h"
#include "model/chat_template/parser.h"
#include "model/chat_template/pystr.h"

namespace dunlin::model {
namespace {

std::vector<TextSegment> Segments(const MarkedText& text) {
  std::vector<TextSegment> out;
  size_t at = 0;
  const auto add = [&](size_t end, bool trusted) {
    if (end > at) out.push_back({std::string(text.view().substr(at, end - at)), trusted});
    at = end;
  };
  for (const MarkedText::Range& range : text.input_ranges()) {
    add(range.begin, true);
    add(range.end, false);
  }
  add(text.size(), true);
  return out;
}

}  // namespace

struct ChatTemplate::Impl {
  ChatTemplateLimits limits;
  std::unique_ptr<const jinja::Program> program;
};

ChatTemplate::ChatTemplate() : impl_(std::make_unique<Impl>()) {}
ChatTemplate::~ChatTemplate() = default;

bool RaisedByTemplate(const absl::Status& status) { return status.GetPayload(jinja::kRaisedPayload).has_value(); }

absl::StatusOr<std::unique_ptr<const ChatTemplate>> ChatTemplate::Compile(absl::string_view source,
                                                                          const ChatTemplateLimits& limits) {
  if (source.size() > limits.max_template_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the chat template has ", source.size(), " bytes, more than max_template_bytes = ", limits.max_template_bytes));
  }
  if (!jinja::IsValidUtf8(source)) return absl::InvalidArgumentError("the chat template is not valid UTF-8");
  ASSIGN_OR_RETURN(std::vector<jinja::Token> tokens, jinja::Tokenize(source));
  auto compiled = std::unique_ptr<ChatTemplate>(new ChatTemplate());
  compiled->impl_->limits = limits;
  ASSIGN_OR_RETURN(compiled->impl_->program, jinja::Parser(std::move(tokens), limits.max_depth).Parse());
  return std::unique_ptr<const ChatTemplate>(std::move(compiled));
}

absl::StatusOr<ChatTemplate::Rendered> ChatTemplate::Render(const Value& variables, absl::CivilSecond local_now) const {
  jinja::Interpreter interpreter(*impl_->program, impl_->limits, local_now);
  absl::StatusOr<MarkedText> text = interpreter.Run(variables);
  if (!text.ok()) {
    if (RaisedByTemplate(text.status())) return text.status();
    return absl::Status(text.status().code(), absl::StrCat("line ", interpreter.line(), ": ", text.status().message()));
  }
  return Rendered{text->bytes(), Segments(*text)};
}

}  // namespace dunlin::model
