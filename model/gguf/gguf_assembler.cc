#include "model/gguf/gguf_assembler.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {

absl::string_view GgufAssembler::Keep(std::string text) { return out_.texts.emplace_back(std::move(text)); }

void GgufAssembler::Add(absl::string_view key, GgufValue value) {
  if (!out_.gguf.values_.try_emplace(std::string(key), std::move(value)).second) {
    status_.Update(absl::InvalidArgumentError(absl::StrCat("key ", Quoted(key), " occurs twice")));
    return;
  }
  out_.gguf.keys_.emplace_back(key);
}

void GgufAssembler::Int(absl::string_view key, int64_t value) {
  GgufValue v{};
  v.type = GgufType::kI64;
  v.scalar = value;
  Add(key, std::move(v));
}

void GgufAssembler::Float(absl::string_view key, double value) {
  GgufValue v{};
  v.type = GgufType::kF64;
  v.scalar = value;
  Add(key, std::move(v));
}

void GgufAssembler::Bool(absl::string_view key, bool value) {
  GgufValue v{};
  v.type = GgufType::kBool;
  v.scalar = value;
  Add(key, std::move(v));
}

void GgufAssembler::String(absl::string_view key, std::string value) {
  GgufValue v{};
  v.type = GgufType::kString;
  v.scalar = Keep(std::move(value));
  Add(key, std::move(v));
}

void GgufAssembler::Strings(absl::string_view key, std::vector<std::string> values) {
  GgufValue v{};
  v.type = GgufType::kArray;
  v.element_type = GgufType::kString;
  v.strings.reserve(values.size());
  for (std::string& text : values) v.strings.push_back(Keep(std::move(text)));
  Add(key, std::move(v));
}

void GgufAssembler::Ints(absl::string_view key, std::vector<int64_t> values) {
  GgufValue v{};
  v.type = GgufType::kArray;
  v.element_type = GgufType::kI32;
  v.integers = std::move(values);
  Add(key, std::move(v));
}

void GgufAssembler::Tensor(absl::string_view name, kernels::DType type, std::vector<int64_t> dims,
                           std::span<const uint8_t> data) {
  if (!out_.gguf.tensor_index_.try_emplace(std::string(name), out_.gguf.tensors_.size()).second) {
    status_.Update(absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " occurs twice")));
    return;
  }
  out_.gguf.tensors_.push_back({std::string(name), type, std::move(dims), data});
}

absl::StatusOr<GgufAssembler::Description> GgufAssembler::Finish() {
  if (!status_.ok()) return std::exchange(status_, absl::OkStatus());
  return std::exchange(out_, {});
}

}  // namespace dunlin::model
