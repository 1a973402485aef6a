// Rows of the method table that live in a file of their own (private to methods*.cc).
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_METHODS_INTERNAL_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_METHODS_INTERNAL_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/methods.h"

namespace dunlin::model::jinja {

// OK when v is a str; else the TypeError of `callee`.
absl::Status WantText(const Value& v, absl::string_view callee);

absl::StatusOr<Value> Split(Env& env, const Value& self, absl::string_view name, const CallArgs& args);
absl::StatusOr<Value> SplitLinesMethod(Env& env, const Value& self, absl::string_view name, const CallArgs& args);
absl::StatusOr<Value> Partition(Env& env, const Value& self, absl::string_view name, const CallArgs& args);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_METHODS_INTERNAL_H_
