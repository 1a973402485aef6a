// What one rendering may use: budgets, and the clock (private to the interpreter).
// Thread-safety: one rendering, one thread.
// Errors: kResourceExhausted naming the budget and its limit. Every helper that makes or reads text or lists in amounts
// that the template chooses goes through here.
#ifndef DUNLIN_MODEL_CHAT_TEMPLATE_ENV_H_
#define DUNLIN_MODEL_CHAT_TEMPLATE_ENV_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "model/chat_template/chat_template.h"
#include "model/chat_template/value.h"

namespace dunlin::model::jinja {

class Env {
 public:
  Env(const ChatTemplateLimits& limits, absl::CivilSecond now)
      : limits_(limits), steps_left_(limits.max_steps), now_(now) {}

  const ChatTemplateLimits& limits() const { return limits_; }
  absl::CivilSecond now() const { return now_; }

  absl::Status Spend(size_t steps) {
    if (steps > steps_left_) return OutOfSteps();
    steps_left_ -= steps;
    return absl::OkStatus();
  }
  // For reading or copying text.
  absl::Status SpendBytes(size_t bytes) { return Spend(bytes / 128); }
  absl::Status CheckBytes(size_t bytes) const {
    return bytes > limits_.max_output_bytes ? TooManyBytes() : absl::OkStatus();
  }
  absl::Status OutOfSteps() const;
  absl::Status TooManyBytes() const;
  absl::Status TooDeep(absl::string_view what) const;

  // Values within the budgets.
  absl::StatusOr<Value> NewText(MarkedText text);
  absl::StatusOr<Value> NewSequence(Value::Type type, std::vector<Value> items);

 private:
  const ChatTemplateLimits limits_;
  size_t steps_left_;
  const absl::CivilSecond now_;
};

// Collects text up to the output budget. What goes past it is dropped and Finish reports it, so that callers need not
// test each piece; loops that may run long test full().
class TextBuilder {
 public:
  explicit TextBuilder(Env& env) : env_(env) {}
  void Append(absl::string_view bytes, bool input = false) {
    if (Room(bytes.size())) out_.Append(bytes, input);
  }
  void Append(const MarkedText& text) {
    if (Room(text.size())) out_.Append(text);
  }
  void Append(const MarkedText& text, size_t begin, size_t end) {
    if (Room(end - begin)) out_.Append(text, begin, end);
  }
  // `text`, `count` times.
  void Repeat(const MarkedText& text, size_t count);
  void AppendPoint(uint32_t code_point, bool input);
  bool full() const { return full_; }
  size_t size() const { return out_.size(); }
  MarkedText& text() { return out_; }
  absl::StatusOr<Value> Finish();

 private:
  bool Room(size_t more) {
    if (full_ || more > env_.limits().max_output_bytes - out_.size()) full_ = true;
    return !full_;
  }
  Env& env_;
  MarkedText out_;
  bool full_ = false;
};

inline absl::Status Invalid(absl::string_view message) { return absl::InvalidArgumentError(message); }

}  // namespace dunlin::model::jinja

#endif  // DUNLIN_MODEL_CHAT_TEMPLATE_ENV_H_
