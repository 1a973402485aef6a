// json.dumps for the tojson filter (private to the interpreter). Reading is ParseJsonValue in value.h.
// Marks of strings and keys are kept; what dumps adds is trusted.
// Errors: kInvalidArgument for values that JSON lacks (undefined, generators, callables), in Python's words.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_JSON_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_JSON_H_

#include "absl/status/statusor.h"
#include "model/chat_template/args.h"
#include "model/chat_template/env.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

// args: ensure_ascii=False, indent=None, separators=None, sort_keys=False
absl::StatusOr<Value> ToJson(Env& env, const Value& v, const CallArgs& args);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_JSON_H_
