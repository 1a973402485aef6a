// The values a chat template computes with: Python's none, bool, int, float, str, list, dict, and Jinja's undefined.
// Thread-safety: plain values; containers are shared by reference as in Python, so one value tree belongs to one
// thread. Strings carry one mark per byte range: whether the characters came from untrusted input. Callers need the
// factories and ParseJsonValue; the accessors serve the interpreter and tests.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/marked_text.h"

namespace dunlin::model {

// A JSON text as a template value; objects keep their order (a repeated key keeps its first place and its last value).
// Strings, keys too, are marked as input when `mark_input`. Numbers as Python reads them: integers of any length,
// floats beyond the range of a double become infinite. Errors: kInvalidArgument with the byte position; nesting deeper
// than 64 is refused.
class Value;
absl::StatusOr<Value> ParseJsonValue(absl::string_view json, bool mark_input);

class Value {
 public:
  Value() = default;  // undefined
  static Value None();
  static Value Bool(bool b);
  static Value Int(int64_t i);
  static Value Float(double d);
  static Value String(absl::string_view trusted);   // the server's or the template's own text
  static Value Input(absl::string_view untrusted);  // text of a client's message
  static Value List(std::vector<Value> items);
  static Value Dict(std::vector<std::pair<std::string, Value>> items);  // keeps the order

  // The rest is the interpreter's.
  enum class Type : uint8_t {
    kUndefined,
    kNone,
    kBool,
    kInt,
    kBigInt,
    kFloat,
    kString,
    kList,
    kTuple,
    kRange,
    kGenerator,
    kView,  // jinja::SequenceHeap
    kDict,
    kNamespace,  // jinja::DictHeap
    kMethod,
    kFunction,
    kMacro,
    kLoop,  // callables; jinja::MethodHeap, an id, interpreter's own
  };
  static Value Text(MarkedText text);
  static Value BigInt(std::string digits);  // an integer outside int64: canonical decimal text
  static Value Undefined(std::string why);  // what using it reports
  static Value Function(int64_t id);
  static Value Object(Type type, std::shared_ptr<void> heap) { return Value(type, std::move(heap)); }

  Type type() const { return type_; }
  bool is(Type type) const { return type_ == type; }
  bool is_undefined() const { return type_ == Type::kUndefined; }
  bool is_none() const { return type_ == Type::kNone; }
  bool is_string() const { return type_ == Type::kString; }
  bool is_dict() const { return type_ == Type::kDict; }
  bool is_sequence() const { return type_ >= Type::kList && type_ <= Type::kView; }
  bool is_integer() const { return type_ == Type::kInt || type_ == Type::kBool; }  // fits int64
  bool is_number() const { return is_integer() || type_ == Type::kFloat; }

  int64_t integer() const;                         // CHECKs is_integer() or a function id
  double number() const;                           // CHECKs is_number()
  const MarkedText& text() const;                  // CHECKs is_string()
  const std::string& digits() const;               // CHECKs kBigInt
  absl::string_view why_undefined() const;         // "" when not known
  const std::vector<Value>& items() const;         // CHECKs is_sequence()
  const Value* Find(absl::string_view key) const;  // CHECKs is_dict(); nullptr when absent; borrowed
  // 1 + the deepest member for containers, 0 for the rest. Namespaces, macros and loops count as 1.
  int depth() const;
  template <typename Heap>
  Heap* heap() const {
    return static_cast<Heap*>(heap_.get());
  }
  const void* identity() const { return heap_.get(); }

 private:
  Value(Type type, std::shared_ptr<void> heap) : type_(type), heap_(std::move(heap)) {}

  Type type_ = Type::kUndefined;
  union {
    int64_t int_ = 0;
    double float_;
  };
  std::shared_ptr<void> heap_;  // what it points to follows from type_
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_VALUE_H_
