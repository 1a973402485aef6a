#include "tools/flat_json.h"

#include <nlohmann/json.hpp>

namespace dunlin::tools {

std::string FlatJson(const std::map<std::string, std::string>& values) {
  return nlohmann::json(values).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::map<std::string, std::string> ParseFlatJson(const std::string& text) {
  std::map<std::string, std::string> values;
  const nlohmann::json parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return values;
  for (const auto& [key, value] : parsed.items()) {
    if (value.is_string()) values[key] = value.get<std::string>();
  }
  return values;
}

std::string JsonQuote(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace dunlin::tools
