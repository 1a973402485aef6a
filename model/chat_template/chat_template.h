// Renders a model's chat template: an interpreter for the Jinja subset that real templates use, in a sandbox.
// Thread-safety: const-safe once compiled.  Owns: the syntax tree.
// Errors: Compile: kInvalidArgument with line and what was found; kUnimplemented for a construct outside the subset;
// kResourceExhausted for syntax nested deeper than max_depth.
// Render: kInvalidArgument with exactly the text that the template gave to raise_exception (RaisedByTemplate tells), or
// with "line N: " and the runtime error (undefined value used, wrong type, ...); kUnimplemented for a method outside
// the subset; kResourceExhausted when a budget (steps, output bytes, depth) runs out, naming it. No error leaves a
// partial prompt. Source: Jinja2's documented semantics with trim_blocks and lstrip_blocks on, loop controls, and the
// tojson of the transformers library; checked against tests/golden/chat_templates.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "model/chat_template/value.h"
#include "model/text_segment.h"

namespace dunlin::model {

struct ChatTemplateLimits {
  size_t max_template_bytes = 256 * 1024;
  // Expressions evaluated plus statements run, plus 1 per 128 bytes of text or per list element that an operation makes
  // or reads: bounds time and, as nothing is made without a step, the memory of one rendering (about 128 bytes a step).
  size_t max_steps = 2'000'000;
  size_t max_output_bytes = 8 << 20;  // also bounds every intermediate string and list
  int max_depth = 128;                // nesting of syntax, calls and values
};

// Whether an error of Render is the template's own refusal of the conversation (raise_exception).
bool RaisedByTemplate(const absl::Status& status);

class ChatTemplate {
 public:
  static absl::StatusOr<std::unique_ptr<const ChatTemplate>> Compile(absl::string_view source,
                                                                     const ChatTemplateLimits& limits = {});
  ~ChatTemplate();

  struct Rendered {
    std::string text;  // the whole prompt
    // The same text in order, cut where trust changes: characters that came from strings marked as input
    // (Value::Input, a message's content) have parse_special = false.
    std::vector<TextSegment> segments;
  };
  // variables: an object Value: messages, tools, documents, add_generation_prompt, bos_token, eos_token, any further
  // ones. local_now: what strftime_now(format) prints.
  absl::StatusOr<Rendered> Render(const Value& variables, absl::CivilSecond local_now) const;

 private:
  ChatTemplate();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_CHAT_TEMPLATE_H_
