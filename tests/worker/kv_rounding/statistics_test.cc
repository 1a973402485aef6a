// The sums of a calibration against the same sums written out.
#include "worker/kv_rounding/statistics.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/op_cases.h"
#include "tests/support/gguf_builder.h"

namespace dunlin::worker {
namespace {

constexpr int kLayers = 2, kQHeads = 6, kKvHeads = 2, kDim = 8, kHidden = 5, kTokens = 11;

using kernels::RopePairing;
using kernels::testing::MakeRope;

TEST(KvStatistics, AreMeansOfKeysAndSecondMomentsByGroup) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const auto draw = [&](size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal(rng) + 0.5f;
    return v;
  };
  // One position only: nothing turns.
  const auto rope = MakeRope(1, kDim, RopePairing::kAdjacent);
  KvStatistics statistics({kLayers, kKvHeads, kDim}, kQHeads, rope.table, {1, 1});
  std::vector<std::vector<float>> q[kLayers], k[kLayers];
  std::vector<float> o[kLayers];
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int t = 0; t < kTokens; ++t) {
      q[layer].push_back(draw(kQHeads * kDim));
      k[layer].push_back(draw(kKvHeads * kDim));
      statistics.AddToken(layer, 0, q[layer].back().data(), k[layer].back().data());
    }
    o[layer] = draw(kHidden * kQHeads * kDim);
    const std::string bytes = testing::EncodeRow(kernels::DType::kF32, o[layer]);
    statistics.AddOutputMatrix(layer, {"o", kernels::DType::kF32, {kQHeads * kDim, kHidden}, {}},
                               {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  }
  const KvCalibration c = statistics.Finish();
  EXPECT_EQ(c.num_tokens, static_cast<uint32_t>(kTokens));
  size_t at = 0, triangle = 0;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (size_t h = 0; h < kKvHeads; ++h) {
      for (size_t d = 0; d < kDim; ++d, ++at) {
        double mean = 0;
        for (size_t t = 0; t < kTokens; ++t) mean += double{k[layer][t][h * kDim + d]} / kTokens;
        EXPECT_NEAR(c.centre[at], mean, 1e-5);
      }
      for (size_t i = 0; i < kDim; ++i) {
        for (size_t j = i; j < kDim; ++j, ++triangle) {
          double k_metric = 0, v_metric = 0;
          for (size_t g = 3 * h; g < 3 * h + 3; ++g) {  // the query heads of the group
            for (size_t t = 0; t < kTokens; ++t) {
              k_metric += double{q[layer][t][g * kDim + i]} * double{q[layer][t][g * kDim + j]} / kTokens;
            }
            for (size_t r = 0; r < kHidden; ++r) {
              const float* row = &o[layer][r * kQHeads * kDim + g * kDim];
              v_metric += double{row[i]} * double{row[j]};
            }
          }
          EXPECT_NEAR(c.k_metric[triangle], k_metric, 1e-4) << layer << h << i << j;
          EXPECT_NEAR(c.v_metric[triangle], v_metric, 1e-4) << layer << h << i << j;
        }
      }
    }
  }
  EXPECT_EQ(triangle, c.k_metric.size());
  EXPECT_EQ(triangle, c.v_metric.size());
}

// Keys and queries that are constant before RoPE, seen at the first positions only: the result is that of a text over
// all positions. Pairs that turn once and more within the range keep nothing of their mean, one that hardly turns all
// of it.
TEST(KvStatistics, StandForPositionsThatTheTextDoesNotReach) {
  constexpr int kPositions = 4000, kMetricPositions = 300;
  for (const RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    auto rope = MakeRope(kPositions, kDim - 2, pairing);  // the last two dims do not turn
    for (float& c : rope.cos) c *= 1.5f;                  // an attention factor, as some long-context models have
    for (float& s : rope.sin) s *= 1.5f;
    const std::vector<float> k = {1, 2, 3, 4, 5, 6, 7, 8}, q = {1, -1, 2, -2, 3, -3, 4, -4};
    const auto turned = [&](std::vector<float> x, int position) {
      ApplyRope(rope.table, position, x.data());
      return x;
    };
    KvStatistics statistics({1, 1, kDim}, 1, rope.table, {.centre = kPositions, .metric = kMetricPositions});
    for (int t = 0; t < 20; ++t) statistics.AddToken(0, t, turned(q, t).data(), turned(k, t).data());
    const KvCalibration c = statistics.Finish();
    // Weights fall with the position: the 64 + p-th part.
    std::vector<double> mean(kDim), metric(36);
    double mean_weights = 0, metric_weights = 0;
    for (int p = 0; p < kPositions; ++p) mean_weights += 1.0 / (64 + p);
    for (int p = 0; p < kMetricPositions; ++p) metric_weights += 1.0 / (64 + p);
    for (int p = 0; p < kPositions; ++p) {
      const std::vector<float> key = turned(k, p), query = turned(q, p);
      size_t at = 0;
      for (size_t i = 0; i < kDim; ++i) {
        mean[i] += double{key[i]} / (64 + p) / mean_weights;
        for (size_t j = i; j < kDim && p < kMetricPositions; ++j) {
          metric[at++] += double{query[i]} * double{query[j]} / (64 + p) / metric_weights;
        }
      }
    }
    for (size_t i = 0; i < kDim; ++i) EXPECT_NEAR(c.centre[i], mean[i], 1e-4) << i;
    for (size_t i = 0; i < 36; ++i) EXPECT_NEAR(c.k_metric[i], metric[i], 1e-3) << i;
    // The fastest pair turns one radian per position; the dims that do not turn keep their mean.
    const size_t fast = 0;
    EXPECT_NEAR(c.centre[kDim - 1], k[kDim - 1], 1e-5);
    EXPECT_LT(std::fabs(c.centre[fast]), 0.1f);
  }
}

}  // namespace
}  // namespace dunlin::worker
