// How far one path's logits are from another's over windows of text: the sums behind perplexity, KL divergence and
// agreement, and the driving of a runner over a window. The rules are those of tests/golden/README.md ("perplexity").
// Thread-safety: plain data; one thread.  Units: natural logarithms.
#ifndef DUNLIN_TESTS_SUPPORT_LOGITS_COMPARISON_H_
#define DUNLIN_TESTS_SUPPORT_LOGITS_COMPARISON_H_

#include <cstdint>
#include <span>
#include <vector>

#include "tests/support/runner_driver.h"

namespace dunlin::testing {

using LogitRows = std::vector<std::vector<float>>;

// A window of `tokens` ids in an empty cache; positions [first_scored, tokens - 1) are scored on the id that follows.
struct ScoredWindow {
  int tokens = 512;
  int first_scored = 256;
  int num_scored() const { return tokens - 1 - first_scored; }
};

double LogSumExp(std::span<const float> logits);

// Logits of the scored positions. The sequence's pages are given back.
LogitRows ScoreWindow(RunnerDriver* driver, const ScoredWindow& window, std::span<const int32_t> tokens);

// Sums over scored positions; KL is KL(reference || path).
struct LogitsComparison {
  double squared_error = 0, squared_reference = 0, kl = 0, kl_max = 0, nll = 0, reference_nll = 0, max_error_top64 = 0;
  int positions = 0, same_top = 0;

  // target: the id that really follows.
  void Add(std::span<const float> reference, std::span<const float> path, int32_t target);
  void AddWindow(const ScoredWindow& window, const LogitRows& reference, const LogitRows& path,
                 std::span<const int32_t> tokens);

  double nmse() const { return squared_error / squared_reference; }
  double kl_mean() const { return kl / positions; }
  double top1() const { return static_cast<double>(same_top) / positions; }
  double perplexity() const;
  double perplexity_ratio() const;  // path / reference
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_LOGITS_COMPARISON_H_
