// Python's operations on values: truth, equality, order, iteration, text, arithmetic (private to the interpreter).
// Thread-safety: none of their own; one rendering, one thread.
// Errors: kInvalidArgument with Python's words (without a line, the interpreter adds it); kResourceExhausted from Env.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_OPS_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_OPS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/chat_template/env.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

enum class Op { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

absl::string_view TypeName(const Value& v);  // "str", "NoneType", ...
// What using an undefined value reports.
absl::Status UndefinedError(const Value& v);

bool Truthy(const Value& v);
// Same object (for `is sameas`, and where Python compares identity first).
bool Same(const Value& a, const Value& b);
absl::StatusOr<bool> Equals(Env& env, const Value& a, const Value& b);
// op is one of kLt, kLe, kGt, kGe.
absl::StatusOr<bool> Order(Env& env, Op op, const Value& a, const Value& b);
absl::StatusOr<bool> Contains(Env& env, const Value& container, const Value& item);
// Any comparison of Op.
absl::StatusOr<bool> CompareValues(Env& env, Op op, const Value& a, const Value& b);

absl::StatusOr<size_t> Length(Env& env, const Value& v);
bool IsIterable(const Value& v);
// The elements in order; uses up a generator.
absl::StatusOr<std::vector<Value>> Iterate(Env& env, const Value& v);

// str(v) and repr(v). AppendStr stops early when the builder is full or the value has taken too many steps.
absl::Status AppendStr(Env& env, const Value& v, TextBuilder* out);
absl::Status AppendRepr(Env& env, const Value& v, TextBuilder* out);
absl::StatusOr<Value> ToStr(Env& env, const Value& v);

absl::StatusOr<Value> Arithmetic(Env& env, Op op, const Value& a, const Value& b);
absl::StatusOr<Value> Negate(const Value& v);
// An int argument (bool counts), or Python's TypeError.
absl::StatusOr<int64_t> AsInt(const Value& v);

// obj.name and obj[key] with Jinja's fallbacks: undefined when there is no such thing.
absl::StatusOr<Value> GetAttr(Env& env, const Value& obj, const Value& name);
absl::StatusOr<Value> GetItem(Env& env, const Value& obj, const Value& key);
absl::StatusOr<Value> GetSlice(Env& env, const Value& obj, const Value& start, const Value& stop, const Value& step);

// Stable sort by keys[i]; the order of indices comes out. Errors as Order.
absl::StatusOr<std::vector<size_t>> SortedOrder(Env& env, const std::vector<Value>& keys, bool reverse);

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_OPS_H_
