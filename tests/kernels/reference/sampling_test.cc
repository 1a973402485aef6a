#include "kernels/sampling.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::kernels {
namespace {

SampleResult Sample(const std::vector<float>& logits, const SampleParams& params) {
  SampleResult result;
  SampleReference(logits.data(), static_cast<int>(logits.size()), params, &result);
  return result;
}

std::map<int32_t, int> Histogram(const std::vector<float>& logits, SampleParams params, int draws) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    params.position = static_cast<uint64_t>(i);
    ++counts[Sample(logits, params).token];
  }
  return counts;
}

// Known answers of philox4x32-10 as published with Random123.
TEST(Philox, GivesThePublishedWords) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(Philox({f, f, f, f}, {f, f}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_EQ(RandomBits(0, 0), (uint64_t{0xe169c58d} << 32) | 0x6627e8d5u);
}

TEST(RandomBits, DependOnEveryBitOfSeedAndPosition) {
  const uint64_t base = RandomBits(12345, 678);
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(RandomBits(12345 ^ (uint64_t{1} << bit), 678), base) << bit;
    EXPECT_NE(RandomBits(12345, 678 ^ (uint64_t{1} << bit)), base) << bit;
  }
}

TEST(RandomUniform, IsUniform) {
  // Chi-square over 64 cells of 64,000 draws: mean 63, standard deviation 11.2; 130 is six deviations off.
  std::vector<int> cells(64, 0);
  for (uint64_t i = 0; i < 64000; ++i) {
    const double u = RandomUniform(99, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++cells[static_cast<size_t>(u * 64)];
  }
  double chi = 0.0;
  for (const int c : cells) chi += (c - 1000.0) * (c - 1000.0) / 1000.0;
  EXPECT_LT(chi, 130.0);
}

TEST(Sample, GreedyTakesTheLargestAndTheLowestIdOnTies) {
  SampleParams greedy;
  greedy.temperature = 0.0f;
  EXPECT_EQ(Sample({1.0f, 3.0f, 3.0f, 2.0f}, greedy).token, 1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Sample({nan, -5.0f, nan}, greedy).token, 1);
}

TEST(Sample, DrawsFollowTheSoftmaxAtTheTemperature) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    SampleParams p;
    p.temperature = temperature;
    p.seed = 5;
    constexpr int kDraws = 20000;
    const auto counts = Histogram(logits, p, kDraws);
    double sum = 0.0;
    for (const float l : logits) sum += std::exp(static_cast<double>(l / temperature));
    for (int32_t id = 0; id < 3; ++id) {
      const double want = std::exp(static_cast<double>(logits[static_cast<size_t>(id)] / temperature)) / sum;
      const double deviation = std::sqrt(want * (1 - want) / kDraws);
      EXPECT_NEAR(counts.at(id) / static_cast<double>(kDraws), want, 5 * deviation) << temperature << " id " << id;
    }
  }
}

TEST(Sample, TopKTopPMinPAndTypicalKeepTheTokensTheirPapersKeep) {
  // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
  const std::vector<float> logits = {std::log(8.0f), std::log(4.0f), std::log(2.0f), 0.0f, 0.0f};
  const auto kept = [&](SampleParams p) { return Histogram(logits, p, 3000).size(); };
  SampleParams p;
  EXPECT_EQ(kept(p), 5u);
  p.top_k = 2;
  EXPECT_EQ(kept(p), 2u);
  p = {};
  p.top_p = 0.6f;  // 0.5 is not enough, 0.75 is
  EXPECT_EQ(kept(p), 2u);
  p.top_p = 1e-6f;  // never fewer than one
  EXPECT_EQ(kept(p), 1u);
  p = {};
  p.min_p = 0.2f;  // at least 0.1
  EXPECT_EQ(kept(p), 3u);
  p = {};
  p.typical_p = 0.2f;  // entropy is 1.3 nats; 0.25 (1.39 nats) is the most typical
  EXPECT_EQ(Histogram(logits, p, 100).begin()->first, 1);
  EXPECT_EQ(kept(p), 1u);
}

TEST(Sample, PenaltiesBiasAndSetsChangeTheChoiceAsDocumented) {
  SampleParams p;
  p.temperature = 0.0f;
  const std::vector<float> logits = {2.0f, 1.9f, -1.0f};
  const std::vector<TokenCount> seen = {{0, 2, true}};
  p.penalty_tokens = seen;
  p.repetition_penalty = 1.1f;  // 2.0 / 1.1 = 1.82 < 1.9
  EXPECT_EQ(Sample(logits, p).token, 1);
  p.repetition_penalty = 1.0f;
  p.frequency_penalty = 0.06f;  // twice: 1.88
  EXPECT_EQ(Sample(logits, p).token, 1);
  p.frequency_penalty = 0.0f;
  p.presence_penalty = 0.06f;  // once: 1.94
  EXPECT_EQ(Sample(logits, p).token, 0);
  p.presence_penalty = 0.2f;
  EXPECT_EQ(Sample(logits, p).token, 1);
  const std::vector<TokenCount> in_prompt = {{0, 2, false}};
  p.penalty_tokens = in_prompt;
  EXPECT_EQ(Sample(logits, p).token, 0) << "presence looks at generated tokens only";
  const std::vector<TokenBias> bias = {{2, 10.0f}};
  p.biases = bias;
  EXPECT_EQ(Sample(logits, p).token, 2);
  const std::vector<int32_t> banned = {2};
  p.banned = banned;
  EXPECT_EQ(Sample(logits, p).token, 0);
  const std::vector<int32_t> allowed = {1, 2};
  p.allowed = allowed;
  EXPECT_EQ(Sample(logits, p).token, 1);
  const std::vector<int32_t> all = {0, 1, 2};
  p.banned = all;
  EXPECT_EQ(Sample(logits, p).token, 0) << "with everything banned the most likely raw token wins";
}

TEST(Sample, LogprobsAndRanksDescribeTheRawDistribution) {
  const std::vector<float> logits = {0.0f, 2.0f, 1.0f, -1.0f};
  double sum = 0.0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l));
  SampleParams p;
  p.temperature = 0.0f;
  p.num_top = 3;
  const std::vector<int32_t> banned = {1};
  p.banned = banned;
  const SampleResult r = Sample(logits, p);
  EXPECT_EQ(r.token, 2);
  EXPECT_EQ(r.rank, 2) << "the ban does not change the model's own ranking";
  EXPECT_NEAR(r.logprob, 1.0 - std::log(sum), 1e-6);
  EXPECT_EQ(r.top_ids, (std::vector<int32_t>{1, 2, 0}));
  EXPECT_NEAR(r.top_logprobs[0], 2.0 - std::log(sum), 1e-6);
}

TEST(Sample, AForcedTokenIsJudgedNotDrawn) {
  SampleParams p;
  p.forced_token = 3;
  p.num_top = 0;
  const SampleResult r = Sample({0.0f, 2.0f, 1.0f, -1.0f}, p);
  EXPECT_EQ(r.token, 3);
  EXPECT_EQ(r.rank, 4);
  EXPECT_TRUE(r.top_ids.empty());
}

TEST(Sample, TheDrawWalksFromTheMostLikelyToken) {
  // p = 0.1, 0.4, 0.05, 0.3, 0.15: cumulated from the top, id 1 to 0.4, id 3 to 0.7, id 4 to 0.85, id 0 to 0.95.
  std::vector<float> logits;
  for (const double p : {0.1, 0.4, 0.05, 0.3, 0.15}) logits.push_back(static_cast<float>(std::log(p)));
  SampleParams params;
  params.seed = 5;
  for (uint64_t i = 0; i < 500; ++i) {
    params.position = i;
    const double u = RandomUniform(5, i);
    ASSERT_EQ(Sample(logits, params).token, u < 0.4 ? 1 : u < 0.7 ? 3 : u < 0.85 ? 4 : u < 0.95 ? 0 : 2) << u;
  }
}

TEST(Sample, LogitsThatAreNoNumbersDoNotBreakIt) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  struct Case {
    std::vector<float> logits;
    int32_t token;
  };
  for (const Case& c :
       {Case{{nan, nan, nan}, 0}, Case{{-inf, -inf, -inf}, 0}, Case{{nan, inf, inf}, 1}, Case{{nan, -inf, 1.0f}, 2}}) {
    for (const float temperature : {0.0f, 1.0f}) {
      SampleParams params;
      params.temperature = temperature;
      params.top_p = 0.9f;
      params.typical_p = 0.9f;
      params.num_top = 3;
      const SampleResult result = Sample(c.logits, params);
      EXPECT_EQ(result.token, c.token);
      EXPECT_EQ(result.rank, 1);
      EXPECT_FALSE(std::isnan(result.logprob));
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels
