// Arguments of a call, and binding them to parameter names (private to the interpreter).
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_ARGS_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_ARGS_H_

#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keyword;
  // Some name came from client text (**kwargs): where names become text again, all of them count as input.
  bool input_names = false;

  Value NameValue(absl::string_view name) const { return input_names ? Value::Input(name) : Value::String(name); }
};

// One value per name; undefined where the call gives none.
// Errors: kInvalidArgument for too many or too few arguments, an unknown keyword, or two values for one name.
absl::StatusOr<std::vector<Value>> BindArgs(absl::string_view callee, const CallArgs& args,
                                            std::initializer_list<absl::string_view> names, size_t required = 0);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_ARGS_H_
