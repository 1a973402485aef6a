// "%..." formatting and str.format (private to the interpreter). Marks of the format and of the arguments are kept.
// Errors: kInvalidArgument with Python's words; kUnimplemented for conversions outside the subset.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_FORMAT_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_FORMAT_H_

#include "absl/status/statusor.h"
#include "model/chat_template/args.h"
#include "model/chat_template/env.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

// format % values: values is a tuple, a dict for %(name)s, or one value.
absl::StatusOr<Value> PercentFormat(Env& env, const MarkedText& format, const Value& values);
// format.format(...): {}, {0}, {name}, {0.attr}, {0[key]} and :[[fill]align][sign][0][width][,][.precision][sdfegxX%].
absl::StatusOr<Value> BraceFormat(Env& env, const MarkedText& format, const CallArgs& args);
// strftime_now(format): the C locale's names; unknown directives are copied. All input when the format holds input.
absl::StatusOr<Value> FormatTime(Env& env, const MarkedText& format);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_FORMAT_H_
