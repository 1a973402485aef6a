// The sample op against SampleReference: the same token for the same inputs, whatever the parameters.
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cpu {
namespace {

using testing::Random;

std::unique_ptr<CpuOps> MakeOps(int threads, Isa isa, int vocab) {
  auto ops = std::make_unique<CpuOps>(threads, isa);
  OpLimits limits;
  limits.max_rows = 1;
  limits.vocab = vocab;
  limits.hidden = 8;
  ops->Reserve(limits);
  return ops;
}

struct RandomRequest {
  SampleParams params;
  std::vector<TokenCount> counts;
  std::vector<TokenBias> biases;
  std::vector<int32_t> allowed;
  std::vector<int32_t> banned;
};

int32_t AnyId(Random* random, int vocab) { return random->Int(0, vocab - 1); }

// Each rule is on in about a third of the requests.
void Fill(Random* random, int vocab, RandomRequest* r) {
  SampleParams& p = r->params;
  const auto on = [&] { return random->Int(0, 2) == 0; };
  p.temperature = on() ? 0.0f : static_cast<float>(0.05 + 2.0 * random->Uniform());
  if (on()) p.top_k = random->Int(1, 60);
  if (on()) p.top_p = static_cast<float>(random->Uniform());
  if (on()) p.min_p = static_cast<float>(0.3 * random->Uniform());
  if (random->Int(0, 5) == 0) p.typical_p = static_cast<float>(0.05 + 0.9 * random->Uniform());
  if (on()) p.repetition_penalty = static_cast<float>(0.8 + random->Uniform());
  if (on()) p.frequency_penalty = static_cast<float>(random->Uniform());
  if (on()) p.presence_penalty = static_cast<float>(random->Uniform());
  p.seed = static_cast<uint64_t>(random->Int(0, 1 << 30));
  p.position = static_cast<uint64_t>(random->Int(0, 4096));
  if (random->Int(0, 9) == 0) p.forced_token = AnyId(random, vocab);
  std::vector<bool> used(static_cast<size_t>(vocab), false);
  const auto fresh = [&](int32_t* id) {
    *id = AnyId(random, vocab);
    const bool seen = used[static_cast<size_t>(*id)];
    used[static_cast<size_t>(*id)] = true;
    return !seen;
  };
  int32_t id;
  for (int i = on() ? 30 : 0; i > 0; --i) {
    if (fresh(&id)) r->counts.push_back({id, random->Int(1, 5), random->Int(0, 1) == 1});
  }
  used.assign(used.size(), false);
  for (int i = on() ? 10 : 0; i > 0; --i) {
    if (fresh(&id)) r->biases.push_back({id, 10.0f * random->Normal()});
  }
  for (int i = random->Int(0, 7) == 0 ? 5 : 0; i > 0; --i) r->allowed.push_back(AnyId(random, vocab));
  for (int i = on() ? 10 : 0; i > 0; --i) r->banned.push_back(AnyId(random, vocab));
  p.penalty_tokens = r->counts;
  p.biases = r->biases;
  p.allowed = r->allowed;
  p.banned = r->banned;
  p.num_top = random->Int(-1, 20);
}

void ExpectSame(const SampleResult& got, const SampleResult& expected) {
  ASSERT_EQ(got.token, expected.token);
  EXPECT_EQ(got.rank, expected.rank);
  if (std::isfinite(expected.logprob)) {
    EXPECT_TRUE(std::fabs(got.logprob - expected.logprob) <= 2e-5f) << got.logprob << " vs " << expected.logprob;
  } else {
    EXPECT_EQ(got.logprob, expected.logprob);
  }
  EXPECT_EQ(got.top_ids, expected.top_ids);
  ASSERT_EQ(got.top_logprobs.size(), expected.top_logprobs.size());
  for (size_t i = 0; i < got.top_logprobs.size(); ++i) {
    EXPECT_TRUE(std::fabs(got.top_logprobs[i] - expected.top_logprobs[i]) <= 2e-5f);
  }
}

TEST(SamplerTest, GivesTheTokenOfTheReferenceForAllParameters) {
  Random random(1);
  for (int vocab : {1, 2, 31, 33, 257, 4099}) {
    std::vector<std::unique_ptr<CpuOps>> all;
    for (Isa isa : SupportedIsas()) all.push_back(MakeOps(2, isa, vocab));
    for (int round = 0; round < 150; ++round) {
      // From flat to peaked, with ties in every fourth.
      std::vector<float> logits = random.Normals(static_cast<size_t>(vocab), round % 3 == 0 ? 0.3f : 4.0f);
      if (round % 4 == 0) {
        for (float& x : logits) x = std::round(x);
      }
      RandomRequest request;
      Fill(&random, vocab, &request);
      SampleResult expected;
      SampleReference(logits.data(), vocab, request.params, &expected);
      for (auto& ops : all) {
        SampleResult got;
        ops->Sample(logits.data(), vocab, {&request.params, 1}, {&got, 1});
        SCOPED_TRACE(::testing::Message() << ops->isa_name() << " vocab " << vocab << " round " << round);
        ExpectSame(got, expected);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(SamplerTest, FlatDistributionsOverALargeVocabularyDrawFromTheirWholeTail) {
  constexpr int kVocab = 49152;
  Random random(2);
  const std::vector<float> logits = random.Normals(kVocab, 0.01f);
  auto ops = MakeOps(1, SupportedIsas().back(), kVocab);
  for (uint64_t position = 0; position < 12; ++position) {
    SampleParams params;
    params.position = position;
    SampleResult expected, got;
    SampleReference(logits.data(), kVocab, params, &expected);
    ops->Sample(logits.data(), kVocab, {&params, 1}, {&got, 1});
    EXPECT_EQ(got.token, expected.token);
  }
}

TEST(SamplerTest, BannedEverythingAndBrokenLogitsStillGiveAToken) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (Isa isa : SupportedIsas()) {
    auto ops = MakeOps(1, isa, 5);
    const auto token = [&](const std::vector<float>& logits, const SampleParams& params) {
      SampleResult result;
      ops->Sample(logits.data(), static_cast<int>(logits.size()), {&params, 1}, {&result, 1});
      return result.token;
    };
    const std::vector<int32_t> all = {0, 1, 2, 3, 4};
    SampleParams params;
    params.banned = all;
    EXPECT_EQ(token({1, 5, 2, 5, 0}, params), 1);
    params.banned = {};
    EXPECT_EQ(token({nan, nan, nan, nan, nan}, params), 0);
    EXPECT_EQ(token({nan, -inf, 3, nan, -inf}, params), 2);
    EXPECT_EQ(token({0, inf, 0, inf, nan}, params), 1);
    params.temperature = 0.0f;
    EXPECT_EQ(token({nan, 2, 7, 7, 1}, params), 2);
  }
}

TEST(SamplerTest, RowsOfABatchAreWhatTheyAreAlone) {
  constexpr int kVocab = 1000, kRows = 9;
  Random random(3);
  const std::vector<float> logits = random.Normals(kVocab * kRows, 2.0f);
  std::vector<RandomRequest> requests(kRows);
  std::vector<SampleParams> params;
  for (RandomRequest& r : requests) {
    Fill(&random, kVocab, &r);
    params.push_back(r.params);
  }
  auto ops = MakeOps(3, SupportedIsas().back(), kVocab);
  std::vector<SampleResult> results(kRows);
  ops->Sample(logits.data(), kVocab, params, results);
  for (size_t i = 0; i < kRows; ++i) {
    SampleResult alone;
    ops->Sample(logits.data() + i * kVocab, kVocab, {&params[i], 1}, {&alone, 1});
    EXPECT_EQ(results[i].token, alone.token);
    EXPECT_EQ(results[i].top_ids, alone.top_ids);
  }
}

}  // namespace
}  // namespace dunlin::kernels::cpu
