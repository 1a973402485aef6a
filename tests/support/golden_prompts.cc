#include "tests/support/golden_prompts.h"

#include <nlohmann/json.hpp>

#include "tests/support/test_data.h"

namespace dunlin::testing {

std::vector<GoldenPrompt> LoadGoldenPrompts() {
  const nlohmann::json file = nlohmann::json::parse(ReadFile(GoldenPath("prompts.json")));
  std::vector<GoldenPrompt> prompts;
  for (const nlohmann::json& p : file.at("prompts")) {
    GoldenPrompt prompt;
    prompt.name = p.at("name");
    prompt.text = p.at("text");
    prompt.ids = p.at("ids").get<std::vector<int32_t>>();
    for (const nlohmann::json& q : p.at("positions")) {
      GoldenPosition position;
      position.pos = q.at("pos");
      position.logsumexp = q.at("logsumexp");
      for (const nlohmann::json& t : q.at("top64")) position.top.emplace_back(t.at(0), t.at(1));
      if (!q.at("next_id").is_null()) {
        position.next_id = q.at("next_id");
        position.next_nll = q.at("next_nll");
      }
      prompt.positions.push_back(std::move(position));
    }
    if (!p.at("greedy").is_null()) {
      for (const nlohmann::json& s : p.at("greedy").at("steps")) {
        prompt.greedy.push_back({s.at(0), s.at(1), s.at(2), s.at(3)});
      }
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace dunlin::testing
