// Filters ("value | name(args)") and tests ("value is name(args)") by name (private to the interpreter).
// Markup does not exist here: `safe` is the identity and `escape` gives ordinary text, as nothing is escaped
// automatically. Errors: kInvalidArgument with Python's words; kResourceExhausted from Env.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_FILTERS_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_FILTERS_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/args.h"
#include "model/chat_template/env.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

using Filter = absl::StatusOr<Value> (*)(Env& env, const Value& v, const CallArgs& args);
using Test = absl::StatusOr<bool> (*)(Env& env, const Value& v, const CallArgs& args);

// What a filter that yields returns: the elements so far, and the failure that comes when somebody reads on. Budgets
// are no business of the reader: they fail at once.
absl::StatusOr<Value> Yield(std::vector<Value> items, absl::Status failure);

// nullptr when there is none of that name.
Filter FindFilter(absl::string_view name);
Test FindTest(absl::string_view name);

// The groups that make up the table.
Filter FindTextFilter(absl::string_view name);
Filter FindNumberFilter(absl::string_view name);
Filter FindSequenceFilter(absl::string_view name);
Filter FindSelectionFilter(absl::string_view name);  // map, select, sort, ...: those that look into their elements

struct FilterRow {
  absl::string_view name;
  Filter filter;
};
template <size_t N>
Filter LookUp(const FilterRow (&rows)[N], absl::string_view name) {
  for (const FilterRow& row : rows) {
    if (row.name == name) return row.filter;
  }
  return nullptr;
}

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_FILTERS_H_
