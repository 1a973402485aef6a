// Methods of str, dict, list and tuple values (private to the interpreter).
// Errors: kInvalidArgument with Python's words; kUnimplemented for a method of Python that is outside the subset.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_METHODS_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_METHODS_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/args.h"
#include "model/chat_template/env.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

enum class MethodKind {
  kNone,    // no such attribute
  kUsable,  // a bound method
  kUnsafe,  // exists in Python but would change the value; the immutable sandbox treats it as undefined
};
MethodKind FindMethod(const Value& self, absl::string_view name);
absl::StatusOr<Value> CallMethod(Env& env, const Value& self, absl::string_view name, const CallArgs& args);

// Shared with filters. `chars` undefined or none = whitespace.
absl::StatusOr<Value> StripText(Env& env, const MarkedText& text, const Value& chars, bool left, bool right);
// count < 0 = all.
absl::StatusOr<Value> ReplaceText(Env& env, const MarkedText& text, const MarkedText& from, const MarkedText& to,
                                  int64_t count);
enum class Case { kUpper, kLower, kTitle, kCapitalize, kSwap };
absl::StatusOr<Value> MapCase(Env& env, const MarkedText& text, Case to);
absl::StatusOr<std::vector<MarkedText>> SplitLines(Env& env, const MarkedText& text, bool keep_ends);
absl::StatusOr<Value> CenterText(Env& env, const MarkedText& text, int64_t width, const MarkedText& fill);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_METHODS_H_
