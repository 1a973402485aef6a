// The sample op's definition, by hand-derived answers.
#include "kernels/sampling.h"

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::kernels {
namespace {

// Logits whose softmax is exactly the given probabilities.
std::vector<float> LogitsOf(const std::vector<double>& p) {
  std::vector<float> out;
  for (const double x : p) out.push_back(static_cast<float>(std::log(x)) + 3.0f);
  return out;
}

SampleResult DrawOne(const std::vector<float>& logits, const SampleParams& params) {
  SampleResult r;
  SampleReference(logits.data(), static_cast<int>(logits.size()), params, &r);
  return r;
}

// How often each token comes over many positions.
std::map<int32_t, int> Histogram(const std::vector<float>& logits, SampleParams params, int draws = 4000) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) {
    params.position = static_cast<uint64_t>(i);
    ++counts[DrawOne(logits, params).token];
  }
  return counts;
}

std::set<int32_t> Support(const std::vector<float>& logits, const SampleParams& params) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : Histogram(logits, params)) ids.insert(id);
  return ids;
}

const std::vector<double> kFive = {0.1, 0.4, 0.05, 0.3, 0.15};

TEST(Philox, GivesThePublishedKnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(Philox({f, f, f, f}, {f, f}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, BitsComeFromSeedAndPositionOnly) {
  EXPECT_EQ(RandomBits(0, 0), 0xe169c58d6627e8d5u);
  EXPECT_EQ(RandomBits(7, 9), RandomBits(7, 9));
  EXPECT_NE(RandomBits(7, 9), RandomBits(9, 7));
  EXPECT_NE(RandomBits(uint64_t{1} << 40, 0), RandomBits(0, 0)) << "the seed's high half must count";
  EXPECT_NE(RandomBits(0, uint64_t{1} << 40), RandomBits(0, 0)) << "the position's high half must count";
  for (uint64_t i = 0; i < 1000; ++i) {
    const double u = RandomUniform(3, i);
    EXPECT_GE(u, 0.0);
    EXPECT_LT(u, 1.0);
  }
}

TEST(Sample, TemperatureZeroTakesTheLargestAndTheLowestIdOnTies) {
  SampleParams p;
  p.temperature = 0.0f;
  EXPECT_EQ(DrawOne({1.0f, 5.0f, 3.0f}, p).token, 1);
  EXPECT_EQ(DrawOne({1.0f, 5.0f, 5.0f}, p).token, 1);
  EXPECT_EQ(DrawOne({2.0f, 2.0f, 2.0f}, p).token, 0);
}

TEST(Sample, FrequenciesFollowTheDistribution) {
  SampleParams p;
  p.seed = 11;
  const int draws = 20000;
  const std::map<int32_t, int> counts = Histogram(LogitsOf(kFive), p, draws);
  double chi2 = 0.0;
  for (size_t i = 0; i < kFive.size(); ++i) {
    const double want = kFive[i] * draws;
    const double got = counts.at(static_cast<int32_t>(i));
    chi2 += (got - want) * (got - want) / want;
  }
  EXPECT_LT(chi2, 18.47);  // 4 degrees of freedom, p = 0.001; the seed is fixed
}

TEST(Sample, TheDrawWalksFromTheMostLikelyToken) {
  // Cumulated: id 1 to 0.4, id 3 to 0.7, id 4 to 0.85, id 0 to 0.95, id 2 to 1.
  SampleParams p;
  p.seed = 5;
  for (uint64_t i = 0; i < 500; ++i) {
    p.position = i;
    const double u = RandomUniform(5, i);
    if (std::fabs(u - 0.4) < 1e-6 || std::fabs(u - 0.7) < 1e-6) continue;
    const int32_t want = u < 0.4 ? 1 : u < 0.7 ? 3 : u < 0.85 ? 4 : u < 0.95 ? 0 : 2;
    ASSERT_EQ(DrawOne(LogitsOf(kFive), p).token, want) << u;
  }
}

TEST(Sample, TemperatureSharpensAndFlattens) {
  SampleParams p;
  p.temperature = 0.5f;  // squares the odds: 0.16 / (0.01 + 0.16 + 0.0025 + 0.09 + 0.0225)
  EXPECT_NEAR(Histogram(LogitsOf(kFive), p, 20000)[1] / 20000.0, 0.5614, 0.015);
  p.temperature = 10.0f;
  EXPECT_NEAR(Histogram(LogitsOf(kFive), p, 20000)[2] / 20000.0, 0.177, 0.015);  // 0.05^0.1 / sum of p^0.1
  p.temperature = 1e-6f;  // so cold that all but one underflow
  EXPECT_EQ(Support(LogitsOf(kFive), p), (std::set<int32_t>{1}));
}

TEST(Sample, TopKTopPMinPTypicalKeepTheTokensTheyShould) {
  const std::vector<float> logits = LogitsOf(kFive);
  SampleParams p;
  p.top_k = 2;
  EXPECT_EQ(Support(logits, p), (std::set<int32_t>{1, 3}));
  p = {};
  p.top_p = 0.65f;  // 0.4 is short of it, 0.4 + 0.3 is not
  EXPECT_EQ(Support(logits, p), (std::set<int32_t>{1, 3}));
  p.top_p = 0.0001f;
  EXPECT_EQ(Support(logits, p), (std::set<int32_t>{1})) << "at least one token stays";
  p = {};
  p.min_p = 0.3f;  // of 0.4: 0.12
  EXPECT_EQ(Support(logits, p), (std::set<int32_t>{1, 3, 4}));
  p = {};
  // Entropy 1.393: distances |-ln p - H|: id1 0.477, id3 0.189, id4 0.504, id0 0.910, id2 1.603.
  p.typical_p = 0.5f;  // 0.3, then 0.3 + 0.4
  EXPECT_EQ(Support(logits, p), (std::set<int32_t>{1, 3}));
  p.typical_p = 0.2f;
  EXPECT_EQ(Support(logits, p), (std::set<int32_t>{3}));
}

TEST(Sample, TopPLooksAtWhatTopKLeft) {
  // top_k 2 leaves 4/7 and 3/7: 0.5 is reached by the first.
  SampleParams p;
  p.top_k = 2;
  p.top_p = 0.5f;
  EXPECT_EQ(Support(LogitsOf(kFive), p), (std::set<int32_t>{1}));
}

TEST(Sample, BiasAllowedAndBannedActBeforeTheDraw) {
  const std::vector<float> logits = LogitsOf(kFive);
  SampleParams p;
  p.temperature = 0.0f;
  const std::vector<TokenBias> biases = {{2, 3.0f}};  // 0.05 e^3 = 1.004 > 0.4
  p.biases = biases;
  EXPECT_EQ(DrawOne(logits, p).token, 2);
  const std::vector<int32_t> allowed = {0, 4};
  p = {};
  p.temperature = 0.0f;
  p.allowed = allowed;
  EXPECT_EQ(DrawOne(logits, p).token, 4);
  const std::vector<int32_t> banned = {4};
  p.banned = banned;
  EXPECT_EQ(DrawOne(logits, p).token, 0);
  const std::vector<int32_t> all = {0, 4, 1, 2, 3};
  p.banned = all;
  EXPECT_EQ(DrawOne(logits, p).token, 1) << "everything banned: the most likely raw token";
}

TEST(Sample, PenaltiesFollowTheirDefinitions) {
  const std::vector<float> logits = {2.0f, 1.5f, -1.0f, -1.2f};
  SampleParams p;
  p.temperature = 0.0f;
  std::vector<TokenCount> seen = {{0, 3, false}};
  p.penalty_tokens = seen;
  p.frequency_penalty = 1.0f;
  p.presence_penalty = 1.0f;
  EXPECT_EQ(DrawOne(logits, p).token, 0) << "frequency and presence look at the output only";
  p.repetition_penalty = 1.4f;  // 2 / 1.4 = 1.43 < 1.5: the prompt's tokens count for repetition
  EXPECT_EQ(DrawOne(logits, p).token, 1);
  seen = {{0, 1, true}};
  p = {};
  p.temperature = 0.0f;
  p.penalty_tokens = seen;
  p.presence_penalty = 0.4f;
  EXPECT_EQ(DrawOne(logits, p).token, 0);
  p.frequency_penalty = 0.2f;  // 2 - 0.4 - 0.2 = 1.4
  EXPECT_EQ(DrawOne(logits, p).token, 1);
  // A negative logit is multiplied: -1 * 1.5 = -1.5 falls below -1.2.
  seen = {{2, 1, false}};
  p = {};
  p.temperature = 0.0f;
  p.penalty_tokens = seen;
  p.repetition_penalty = 1.5f;
  const std::vector<int32_t> low = {2, 3};
  p.allowed = low;
  EXPECT_EQ(DrawOne(logits, p).token, 3);
}

TEST(Sample, LogprobsAndRankDescribeTheRawDistribution) {
  SampleParams p;
  p.temperature = 0.0f;
  p.num_top = 3;
  const std::vector<TokenBias> biases = {{2, 5.0f}};
  p.biases = biases;
  const SampleResult r = DrawOne(LogitsOf(kFive), p);
  EXPECT_EQ(r.token, 2);
  EXPECT_NEAR(r.logprob, std::log(0.05), 1e-6);
  EXPECT_EQ(r.rank, 5);
  EXPECT_EQ(r.top_ids, (std::vector<int32_t>{1, 3, 4}));
  ASSERT_EQ(r.top_logprobs.size(), 3u);
  EXPECT_NEAR(r.top_logprobs[0], std::log(0.4), 1e-6);
  EXPECT_NEAR(r.top_logprobs[2], std::log(0.15), 1e-6);
}

TEST(Sample, WithoutLogprobsTheFieldsAreEmptyAndOldValuesGone) {
  SampleResult r;
  r.logprob = 9.0f;
  r.rank = 9;
  r.top_ids = {1, 2};
  r.top_logprobs = {1.0f, 2.0f};
  SampleParams p;
  const std::vector<float> logits = LogitsOf(kFive);
  SampleReference(logits.data(), 5, p, &r);
  EXPECT_EQ(r.logprob, 0.0f);
  EXPECT_EQ(r.rank, 0);
  EXPECT_TRUE(r.top_ids.empty());
  EXPECT_TRUE(r.top_logprobs.empty());
}

TEST(Sample, AForcedTokenIsJudgedAndNotDrawn) {
  SampleParams p;
  p.forced_token = 4;
  p.num_top = 0;
  const SampleResult r = DrawOne(LogitsOf(kFive), p);
  EXPECT_EQ(r.token, 4);
  EXPECT_EQ(r.rank, 3);
  EXPECT_NEAR(r.logprob, std::log(0.15), 1e-6);
  EXPECT_TRUE(r.top_ids.empty());
}

TEST(Sample, EqualLogitsRankByTheirIds) {
  SampleParams p;
  p.forced_token = 2;
  p.num_top = 3;
  const SampleResult r = DrawOne({1.0f, 1.0f, 1.0f}, p);
  EXPECT_EQ(r.rank, 3);
  EXPECT_EQ(r.top_ids, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Sample, SurvivesLogitsThatAreNotNumbers) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& logits :
       {std::vector<float>{nan, nan, nan}, {-inf, -inf, -inf}, {inf, inf, nan}, {nan, 1.0f, -inf}}) {
    for (const float temperature : {0.0f, 1.0f}) {
      SampleParams p;
      p.temperature = temperature;
      p.top_p = 0.9f;
      p.typical_p = 0.9f;
      p.num_top = 3;
      const SampleResult r = DrawOne(logits, p);
      EXPECT_GE(r.token, 0);
      EXPECT_LT(r.token, 3);
      EXPECT_FALSE(std::isnan(r.logprob));
    }
  }
  SampleParams p;
  EXPECT_EQ(Support({nan, 1.0f, -inf}, p), (std::set<int32_t>{1}));
  EXPECT_EQ(Support({0.0f, 1.0f, inf}, p), (std::set<int32_t>{2}));
}

}  // namespace
}  // namespace dunlin::kernels
