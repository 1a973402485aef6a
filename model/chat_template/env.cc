#include "model/chat_template/env.h"

#include "base/status_macros.h"
#include "model/chat_template/pystr.h"
#include "model/chat_template/value_heap.h"

namespace dunlin::model::jinja {

absl::Status Env::OutOfSteps() const {
  return absl::ResourceExhaustedError(absl::StrCat("the template needs more than max_steps = ", limits_.max_steps));
}

absl::Status Env::TooManyBytes() const {
  return absl::ResourceExhaustedError(
      absl::StrCat("the template makes a text or list larger than max_output_bytes = ", limits_.max_output_bytes));
}

absl::Status Env::TooDeep(absl::string_view what) const {
  return absl::ResourceExhaustedError(
      absl::StrCat("the template nests ", what, " deeper than max_depth = ", limits_.max_depth));
}

absl::StatusOr<Value> Env::NewText(MarkedText text) {
  RETURN_IF_ERROR(CheckBytes(text.size()));
  RETURN_IF_ERROR(Spend(text.size() / 128 + text.input_ranges().size() / 8));
  return Value::Text(std::move(text));
}

absl::StatusOr<Value> Env::NewSequence(Value::Type type, std::vector<Value> items) {
  RETURN_IF_ERROR(CheckBytes(items.size()));
  RETURN_IF_ERROR(Spend(items.size()));
  for (const Value& item : items) {
    if (item.depth() >= limits_.max_depth) return TooDeep("values");
  }
  return MakeSequence(type, std::move(items));
}

void TextBuilder::Repeat(const MarkedText& text, size_t count) {
  if (text.empty()) return;
  if (count > env_.limits().max_output_bytes / text.size()) full_ = true;
  for (size_t i = 0; i < count && !full_; ++i) Append(text);
}

void TextBuilder::AppendPoint(uint32_t code_point, bool input) {
  std::string bytes;
  AppendUtf8(code_point, &bytes);
  Append(bytes, input);
}

absl::StatusOr<Value> TextBuilder::Finish() {
  if (full_) return env_.TooManyBytes();
  return env_.NewText(std::move(out_));
}

}  // namespace dunlin::model::jinja
