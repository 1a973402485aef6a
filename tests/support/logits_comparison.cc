#include "tests/support/logits_comparison.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace dunlin::testing {
namespace {

constexpr int kChunk = 64;  // what a runner gives the logits of

}  // namespace

double LogSumExp(std::span<const float> logits) {
  double max = -INFINITY, sum = 0.0;
  for (const float l : logits) max = std::max(max, static_cast<double>(l));
  for (const float l : logits) sum += std::exp(static_cast<double>(l) - max);
  return max + std::log(sum);
}

LogitRows ScoreWindow(RunnerDriver* driver, const ScoredWindow& window, std::span<const int32_t> tokens) {
  CHECK_EQ(tokens.size(), static_cast<size_t>(window.tokens));
  RunnerDriver::Sequence sequence;
  LogitRows rows = driver->Feed(&sequence, tokens, kChunk, [&](int position) {
    return position >= window.first_scored && position < window.tokens - 1;
  });
  driver->Close(&sequence);
  CHECK_EQ(rows.size(), static_cast<size_t>(window.num_scored()));
  return rows;
}

void LogitsComparison::Add(std::span<const float> reference, std::span<const float> path, int32_t target) {
  const double lse_r = LogSumExp(reference), lse_p = LogSumExp(path);
  double kl_here = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double r = static_cast<double>(reference[i]), p = static_cast<double>(path[i]);
    squared_error += (p - r) * (p - r);
    squared_reference += r * r;
    kl_here += std::exp(r - lse_r) * ((r - lse_r) - (p - lse_p));
  }
  kl += kl_here;
  kl_max = std::max(kl_max, kl_here);
  nll += lse_p - static_cast<double>(path[static_cast<size_t>(target)]);
  reference_nll += lse_r - static_cast<double>(reference[static_cast<size_t>(target)]);
  std::vector<size_t> order(reference.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto top = static_cast<std::ptrdiff_t>(std::min<size_t>(64, order.size()));
  std::partial_sort(order.begin(), order.begin() + top, order.end(),
                    [&](size_t a, size_t b) { return reference[a] > reference[b]; });
  for (size_t i = 0; i < static_cast<size_t>(top); ++i) {
    max_error_top64 = std::max(
        max_error_top64, std::fabs(static_cast<double>(path[order[i]]) - static_cast<double>(reference[order[i]])));
  }
  same_top += std::max_element(path.begin(), path.end()) - path.begin() == static_cast<std::ptrdiff_t>(order[0]);
  ++positions;
}

void LogitsComparison::AddWindow(const ScoredWindow& window, const LogitRows& reference, const LogitRows& path,
                                 std::span<const int32_t> tokens) {
  CHECK_EQ(reference.size(), path.size());
  for (size_t i = 0; i < path.size(); ++i) {
    Add(reference[i], path[i], tokens[static_cast<size_t>(window.first_scored) + 1 + i]);
  }
}

double LogitsComparison::perplexity() const { return std::exp(nll / positions); }

double LogitsComparison::perplexity_ratio() const { return std::exp((nll - reference_nll) / positions); }

}  // namespace dunlin::testing
