#include "model/hugging_face/json_object.h"

#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace dunlin::model {
namespace {

const nlohmann::json& EmptyObject() {
  static const auto& empty = *new nlohmann::json(nlohmann::json::object());
  return empty;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& text, absl::string_view file) {
  if (text.empty()) return nlohmann::json::object();
  nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(file, " is no JSON object"));
  return json;
}

const nlohmann::json* JsonObject::Find(absl::string_view key) const {
  const auto it = object_->find(std::string(key));
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

absl::Status JsonObject::Wrong(absl::string_view key, absl::string_view wanted) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": '", key, "' is not ", wanted));
}

absl::StatusOr<int64_t> JsonObject::Int(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return absl::NotFoundError(absl::StrCat(file_, ": '", key, "' is missing"));
  if (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return Wrong(key, "an integer below 2^63");
  }
  if (!value->is_number_integer()) return Wrong(key, "an integer");
  return value->get<int64_t>();
}

absl::StatusOr<double> JsonObject::Float(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return absl::NotFoundError(absl::StrCat(file_, ": '", key, "' is missing"));
  if (!value->is_number()) return Wrong(key, "a number");
  return value->get<double>();
}

absl::StatusOr<int64_t> JsonObject::IntOr(absl::string_view key, int64_t fallback) const {
  if (Find(key) == nullptr) return fallback;
  return Int(key);
}

absl::StatusOr<double> JsonObject::FloatOr(absl::string_view key, double fallback) const {
  if (Find(key) == nullptr) return fallback;
  return Float(key);
}

absl::StatusOr<bool> JsonObject::BoolOr(absl::string_view key, bool fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return Wrong(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonObject::StringOr(absl::string_view key, absl::string_view fallback) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) return Wrong(key, "a text");
  return value->get<std::string>();
}

absl::StatusOr<JsonObject> JsonObject::Object(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return JsonObject(EmptyObject(), file_);
  if (!value->is_object()) return Wrong(key, "an object");
  return JsonObject(*value, file_);
}

}  // namespace dunlin::model
