// The values a chat template computes with: Python's none, bool, int, float, str, list, dict, and Jinja's undefined.
// Thread-safety: plain values; containers are shared by reference as in Python, so one value tree belongs to one thread.
// Strings carry one mark per byte range: whether the characters came from untrusted input.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::model {

// A JSON text as a template value; objects keep their order. Strings are marked as input when `mark_input`.
// Errors: kInvalidArgument with the position; nesting deeper than 64 is refused.
class Value;
absl::StatusOr<Value> ParseJsonValue(absl::string_view json, bool mark_input);

// (The class is defined by the interpreter's owner; callers need only the factories below.)
class Value {
 public:
  Value();  // undefined
  static Value None();
  static Value Bool(bool b);
  static Value Int(int64_t i);
  static Value Float(double d);
  static Value String(absl::string_view trusted);  // the server's or the template's own text
  static Value Input(absl::string_view untrusted); // text of a client's message
  static Value List(std::vector<Value> items);
  static Value Dict(std::vector<std::pair<std::string, Value>> items);  // keeps the order

  struct Rep;
  const std::shared_ptr<Rep>& rep() const { return rep_; }
  explicit Value(std::shared_ptr<Rep> rep) : rep_(std::move(rep)) {}

 private:
  std::shared_ptr<Rep> rep_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_H_
