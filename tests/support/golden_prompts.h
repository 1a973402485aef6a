// tests/golden/prompts.json as plain structs. Thread-safety: pure function.  Errors: CHECK-fails when the file is
// broken.
#ifndef DUNLIN_TESTS_SUPPORT_GOLDEN_PROMPTS_H_
#define DUNLIN_TESTS_SUPPORT_GOLDEN_PROMPTS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dunlin::testing {

struct GoldenPosition {
  int pos = 0;  // 0-based index of the last token seen
  double logsumexp = 0.0;
  std::vector<std::pair<int32_t, double>> top;  // 64 x (id, logit), falling
  int32_t next_id = -1;                         // the prompt's own next token, -1 at its end
  double next_nll = 0.0;
};
struct GoldenStep {
  int32_t id = 0;
  double logit = 0.0;
  int32_t runner_up = 0;
  double margin = 0.0;
};
struct GoldenPrompt {
  std::string name;
  std::string text;
  std::vector<int32_t> ids;
  std::vector<GoldenPosition> positions;
  std::vector<GoldenStep> greedy;  // 64 steps
};

std::vector<GoldenPrompt> LoadGoldenPrompts();

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_GOLDEN_PROMPTS_H_
