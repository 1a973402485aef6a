#include "model/gguf/gguf.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/quant_format.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

absl::Status WrongType(absl::string_view key, const GgufValue& value, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF: key ", Quoted(key), " has type ", GgufTypeName(value.type), "; ", wanted, " is wanted"));
}

absl::Status Missing(absl::string_view key) {
  return absl::NotFoundError(absl::StrCat("GGUF: key ", Quoted(key), " is missing"));
}

}  // namespace

size_t GgufValue::array_size() const { return strings.size() + floats.size() + integers.size(); }

int64_t GgufTensor::num_elements() const {
  int64_t out = 1;
  for (const int64_t d : dims) out *= d;
  return out;
}

int64_t GgufTensor::cols() const { return dims.front(); }
int64_t GgufTensor::rows() const { return num_elements() / cols(); }

size_t GgufTensor::num_bytes() const { return kernels::RowBytes(type, num_elements()); }

const GgufValue* Gguf::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::StatusOr<int64_t> Gguf::GetInt(absl::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  const auto out_of_range = [&](auto number) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF: key ", Quoted(key), " is ", number, "; ", min, " to ", max, " is allowed"));
  };
  int64_t out = 0;
  if (const auto* big = std::get_if<uint64_t>(&value->scalar)) {
    if (*big > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return out_of_range(*big);
    out = static_cast<int64_t>(*big);
  } else if (const auto* integer = std::get_if<int64_t>(&value->scalar)) {
    out = *integer;
  } else {
    return WrongType(key, *value, "an integer");
  }
  if (out < min || out > max) return out_of_range(out);
  return out;
}

absl::StatusOr<double> Gguf::GetFloat(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  if (const auto* number = std::get_if<double>(&value->scalar)) return *number;
  return WrongType(key, *value, "f32 or f64");
}

absl::StatusOr<bool> Gguf::GetBool(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  if (const auto* flag = std::get_if<bool>(&value->scalar)) return *flag;
  return WrongType(key, *value, "bool");
}

absl::StatusOr<absl::string_view> Gguf::GetString(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  if (const auto* text = std::get_if<absl::string_view>(&value->scalar)) return *text;
  return WrongType(key, *value, "string");
}

absl::StatusOr<int64_t> Gguf::GetIntOr(absl::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  if (Find(key) == nullptr) return fallback;
  return GetInt(key, min, max);
}

absl::StatusOr<double> Gguf::GetFloatOr(absl::string_view key, double fallback) const {
  if (Find(key) == nullptr) return fallback;
  return GetFloat(key);
}

absl::StatusOr<bool> Gguf::GetBoolOr(absl::string_view key, bool fallback) const {
  if (Find(key) == nullptr) return fallback;
  return GetBool(key);
}

const GgufTensor* Gguf::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

}  // namespace dunlin::model
