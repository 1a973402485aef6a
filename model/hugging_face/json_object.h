// Typed access to one JSON object of a Hugging Face folder, without exceptions. A member that is null counts as absent.
// Thread-safety: const-safe.  Borrows: the JSON value.  Errors: kInvalidArgument / kNotFound naming the file and
// member.
#ifndef DUNLIN_MODEL_HUGGING_FACE_JSON_OBJECT_H_
#define DUNLIN_MODEL_HUGGING_FACE_JSON_OBJECT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::model {

// The object in `text`; an empty text is an empty object. `file` is for messages.
absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& text, absl::string_view file);

class JsonObject {
 public:
  JsonObject(const nlohmann::json& object, std::string file) : object_(&object), file_(std::move(file)) {}

  const std::string& file() const { return file_; }
  const nlohmann::json& json() const { return *object_; }
  bool empty() const { return object_->empty(); }
  const nlohmann::json* Find(absl::string_view key) const;  // nullptr when absent or null
  absl::StatusOr<int64_t> Int(absl::string_view key) const;
  absl::StatusOr<double> Float(absl::string_view key) const;
  absl::StatusOr<int64_t> IntOr(absl::string_view key, int64_t fallback) const;
  absl::StatusOr<double> FloatOr(absl::string_view key, double fallback) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool fallback) const;
  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view fallback) const;
  // An empty object when absent; an error when it is something else.
  absl::StatusOr<JsonObject> Object(absl::string_view key) const;

 private:
  absl::Status Wrong(absl::string_view key, absl::string_view wanted) const;

  const nlohmann::json* object_;
  std::string file_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_HUGGING_FACE_JSON_OBJECT_H_
