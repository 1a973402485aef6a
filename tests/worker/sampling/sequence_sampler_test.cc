#include "worker/sampling/sequence_sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <utility>
#include <vector>

namespace dunlin::worker {
namespace {

using Counts = std::map<int32_t, std::pair<int32_t, bool>>;

Counts AsMap(std::span<const kernels::TokenCount> counts) {
  Counts map;
  for (const kernels::TokenCount& c : counts) {
    EXPECT_TRUE(map.emplace(c.id, std::pair(c.count, c.in_output)).second) << "token " << c.id << " twice";
  }
  return map;
}

// Counts the window anew from the whole sequence.
Counts Recount(const std::vector<int32_t>& tokens, size_t prompt_tokens, int32_t window) {
  const size_t begin =
      window < 0 || static_cast<size_t>(window) > tokens.size() ? 0 : tokens.size() - static_cast<size_t>(window);
  std::map<int32_t, int32_t> in_prompt, in_output;
  for (size_t i = begin; i < tokens.size(); ++i) ++(i < prompt_tokens ? in_prompt : in_output)[tokens[i]];
  Counts counts;
  for (const auto& [id, n] : in_prompt) counts[id] = {n, false};
  for (const auto& [id, n] : in_output) counts[id] = {n, true};
  return counts;
}

TEST(PenaltyWindow, EqualsARecountAfterEveryToken) {
  std::mt19937 random(7);
  for (const int32_t window : {-1, 0, 1, 2, 5, 64}) {
    for (const size_t prompt_tokens : {1u, 4u, 40u}) {
      std::vector<int32_t> tokens;
      for (size_t i = 0; i < prompt_tokens; ++i) tokens.push_back(static_cast<int32_t>(random() % 9));
      PenaltyWindow incremental(window, tokens, prompt_tokens + 60);
      for (int i = 0; i < 60; ++i) {
        ASSERT_EQ(AsMap(incremental.counts()), Recount(tokens, prompt_tokens, window))
            << "window " << window << ", prompt " << prompt_tokens << ", token " << i;
        tokens.push_back(static_cast<int32_t>(random() % 9));
        incremental.Append(tokens.back());
      }
    }
  }
}

TEST(SequenceSampler, WithoutPenaltiesNoTokenIsCounted) {
  SequenceSampler sampler({}, std::vector<int32_t>{1, 2, 3}, 10, 0, {}, -1);
  EXPECT_TRUE(sampler.Next(3).penalty_tokens.empty());
}

TEST(SequenceSampler, PassesOnWhatTheClientAsked) {
  SamplingSpec spec;
  spec.temperature = 0.5f;
  spec.top_k = 7;
  spec.top_p = 0.9f;
  spec.min_p = 0.1f;
  spec.typical_p = 0.8f;
  spec.repetition_penalty = 1.1f;
  spec.frequency_penalty = 0.2f;
  spec.presence_penalty = 0.3f;
  spec.seed = 42;
  spec.logit_bias = {{3, 1.5f}};
  spec.allowed_tokens = {1, 2, 3};
  spec.banned_tokens = {2};
  SequenceSampler sampler(spec, std::vector<int32_t>{1, 1}, 10, 0, std::vector<int32_t>{9}, 4);
  sampler.Append(5);
  const kernels::SampleParams p = sampler.Next(3);
  EXPECT_EQ(p.forced_token, -1);
  EXPECT_EQ(p.temperature, 0.5f);
  EXPECT_EQ(p.top_k, 7);
  EXPECT_EQ(p.top_p, 0.9f);
  EXPECT_EQ(p.min_p, 0.1f);
  EXPECT_EQ(p.typical_p, 0.8f);
  EXPECT_EQ(p.repetition_penalty, 1.1f);
  EXPECT_EQ(p.frequency_penalty, 0.2f);
  EXPECT_EQ(p.presence_penalty, 0.3f);
  EXPECT_EQ(p.seed, 42u);
  EXPECT_EQ(p.position, 3u);
  EXPECT_EQ(p.num_top, 4);
  ASSERT_EQ(p.biases.size(), 1u);
  EXPECT_EQ(p.biases[0].id, 3);
  EXPECT_EQ(std::vector(p.allowed.begin(), p.allowed.end()), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(std::vector(p.banned.begin(), p.banned.end()), (std::vector<int32_t>{2}));
  EXPECT_EQ(AsMap(p.penalty_tokens), (Counts{{1, {2, false}}, {5, {1, true}}}));
}

TEST(SequenceSampler, BansWhatWouldEndTheSequenceForTheFirstMinTokensDraws) {
  SamplingSpec spec;
  spec.banned_tokens = {4, 9};
  SequenceSampler sampler(spec, std::vector<int32_t>{1}, 10, 2, std::vector<int32_t>{9, 8}, -1);
  for (int drawn = 0; drawn < 4; ++drawn) {
    const kernels::SampleParams p = sampler.Next(1 + drawn);
    const std::vector<int32_t> banned(p.banned.begin(), p.banned.end());
    EXPECT_EQ(sampler.below_min_tokens(), drawn < 2);
    EXPECT_EQ(banned, drawn < 2 ? (std::vector<int32_t>{4, 8, 9}) : (std::vector<int32_t>{4, 9})) << drawn;
    sampler.Append(1);
  }
}

TEST(SequenceSampler, KnowsTheParametersOfLaterDrawsWithoutPenalties) {
  SamplingSpec spec;
  spec.seed = 5;
  spec.banned_tokens = {1};
  const std::vector<int32_t> prompt = {4, 4};
  SequenceSampler now(spec, prompt, 9, 4, std::vector<int32_t>{2}, -1), later = now;
  for (int32_t ahead = 0; ahead < 6; ++ahead) {
    SCOPED_TRACE(ahead);
    const kernels::SampleParams guessed = now.Next(2 + ahead, ahead), known = later.Next(2 + ahead);
    EXPECT_EQ(guessed.position, known.position);
    EXPECT_EQ(guessed.seed, known.seed);
    EXPECT_TRUE(std::ranges::equal(guessed.banned, known.banned));
    EXPECT_EQ(guessed.banned.size(), ahead < 4 ? 2u : 1u);  // the ending token, while fewer than four were drawn
    later.Append(4);
  }
  EXPECT_FALSE(now.penalised());
  spec.presence_penalty = 0.5f;
  const SequenceSampler penalised(spec, prompt, 9, 0, {}, -1);
  EXPECT_TRUE(penalised.penalised());
  EXPECT_DEATH(penalised.Next(3, 1), "");
}

TEST(JudgeToken, ForcesTheTokenAndNothingElse) {
  const kernels::SampleParams p = JudgeToken(11, 5, 2);
  EXPECT_EQ(p.forced_token, 11);
  EXPECT_EQ(p.num_top, 2);
  EXPECT_TRUE(p.penalty_tokens.empty() && p.biases.empty() && p.allowed.empty() && p.banned.empty());
}

}  // namespace
}  // namespace dunlin::worker
