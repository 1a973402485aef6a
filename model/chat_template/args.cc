#include "model/chat_template/args.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace dunlin::model::jinja {

absl::StatusOr<std::vector<Value>> BindArgs(absl::string_view callee, const CallArgs& args,
                                            std::initializer_list<absl::string_view> names, size_t required) {
  if (args.positional.size() > names.size()) {
    return absl::InvalidArgumentError(absl::StrCat(callee, "() takes at most ", names.size(), " argument(s) but ",
                                                   args.positional.size(), " were given"));
  }
  std::vector<Value> out = args.positional;
  std::vector<bool> given(names.size(), false);
  std::fill_n(given.begin(), out.size(), true);
  out.resize(names.size());
  for (const auto& [name, value] : args.keyword) {
    const auto it = std::find(names.begin(), names.end(), absl::string_view(name));
    if (it == names.end()) {
      return absl::InvalidArgumentError(absl::StrCat(callee, "() got an unexpected keyword argument '", name, "'"));
    }
    const size_t at = static_cast<size_t>(it - names.begin());
    if (given[at]) {
      return absl::InvalidArgumentError(absl::StrCat(callee, "() got multiple values for argument '", name, "'"));
    }
    given[at] = true;
    out[at] = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!given[i]) {
      return absl::InvalidArgumentError(absl::StrCat(callee, "() missing required argument: '", names.begin()[i], "'"));
    }
  }
  return out;
}

}  // namespace dunlin::model::jinja
