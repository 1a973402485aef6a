#include "tests/worker/runners/golden_prompts.h"

#include "base/check.h"
#include "nlohmann/json.hpp"
#include "tests/support/test_data.h"

namespace dunlin::testing {
namespace {

using Json = nlohmann::json;

GoldenPosition Position(const Json& j) {
  GoldenPosition p;
  p.pos = j.at("pos").get<int32_t>();
  p.logsumexp = j.at("logsumexp").get<double>();
  for (const Json& pair : j.at("top64")) p.top.emplace_back(pair.at(0).get<int32_t>(), pair.at(1).get<double>());
  return p;
}

}  // namespace

std::vector<GoldenPrompt> ReadGoldenPrompts() {
  const Json json = Json::parse(ReadFile(GoldenPath("prompts.json")));
  std::vector<GoldenPrompt> prompts;
  for (const Json& j : json.at("prompts")) {
    GoldenPrompt p;
    p.name = j.at("name").get<std::string>();
    p.ids = j.at("ids").get<std::vector<int32_t>>();
    for (const Json& position : j.at("positions")) p.positions.push_back(Position(position));
    for (const Json& step : j.at("greedy").at("steps")) {
      p.greedy.push_back({step.at(0).get<int32_t>(), step.at(1).get<double>(), step.at(3).get<double>()});
    }
    p.fp8_last = Position(j.at("kv_fp8").at("last"));
    prompts.push_back(std::move(p));
  }
  CHECK(!prompts.empty());
  return prompts;
}

const GoldenPrompt& FindPrompt(const std::vector<GoldenPrompt>& prompts, const std::string& name) {
  for (const GoldenPrompt& p : prompts) {
    if (p.name == name) return p;
  }
  CHECK(false) << "no prompt " << name;
  return prompts.front();
}

}  // namespace dunlin::testing
