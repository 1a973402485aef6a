// The sums of a calibration against the same sums written out.
#include "worker/kv_rounding/statistics.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/gguf_builder.h"

namespace dunlin::worker {
namespace {

constexpr int kLayers = 2, kQHeads = 6, kKvHeads = 2, kDim = 8, kHidden = 5, kTokens = 11;

TEST(KvStatistics, AreMeansOfKeysAndSecondMomentsByGroup) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const auto draw = [&](size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal(rng) + 0.5f;
    return v;
  };
  KvStatistics statistics({kLayers, kKvHeads, kDim}, kQHeads);
  std::vector<std::vector<float>> q[kLayers], k[kLayers];
  std::vector<float> o[kLayers];
  for (int layer = 0; layer < kLayers; ++layer) {
    for (int t = 0; t < kTokens; ++t) {
      q[layer].push_back(draw(kQHeads * kDim));
      k[layer].push_back(draw(kKvHeads * kDim));
      statistics.AddToken(layer, q[layer].back().data(), k[layer].back().data());
    }
    o[layer] = draw(kHidden * kQHeads * kDim);
    const std::string bytes = testing::EncodeRow(kernels::DType::kF32, o[layer]);
    statistics.AddOutputMatrix(layer, {"o",
                                       kernels::DType::kF32,
                                       {kQHeads * kDim, kHidden},
                                       {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}});
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

}  // namespace
}  // namespace dunlin::worker
