// tests/golden/prompts.json, read. Thread-safety: plain data.
#ifndef DUNLIN_TESTS_WORKER_RUNNERS_GOLDEN_PROMPTS_H_
#define DUNLIN_TESTS_WORKER_RUNNERS_GOLDEN_PROMPTS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dunlin::testing {

struct GoldenPosition {
  int32_t pos = 0;
  double logsumexp = 0.0;
  std::vector<std::pair<int32_t, double>> top;  // [64] id, logit, in falling order
};
struct GoldenStep {
  int32_t id = 0;
  double logit = 0.0;
  double margin = 0.0;  // to the runner-up
};
struct GoldenPrompt {
  std::string name;
  std::vector<int32_t> ids;
  std::vector<GoldenPosition> positions;
  std::vector<GoldenStep> greedy;  // [64]
  GoldenPosition fp8_last;         // the last position with the FP8 cache
};

std::vector<GoldenPrompt> ReadGoldenPrompts();
// CHECK-fails when there is none of this name.
const GoldenPrompt& FindPrompt(const std::vector<GoldenPrompt>& prompts, const std::string& name);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_WORKER_RUNNERS_GOLDEN_PROMPTS_H_
