// The device's sample op against SampleReference: the same token, rank and top list for the same inputs, whatever the
// parameters. Its arithmetic is the same bits on every device and the emulator, so that with fixed seeds the number of
// draws that fall within its rounding of a border, and differ, is a constant: none here.
#include "kernels/cuda/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::Random;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Request {
  SampleParams params;
  std::vector<TokenCount> counts;
  std::vector<TokenBias> biases;
  std::vector<int32_t> allowed, banned;

  SampleParams Params() const {
    SampleParams p = params;
    p.penalty_tokens = counts;
    p.biases = biases;
    p.allowed = allowed;
    p.banned = banned;
    return p;
  }
};

// Ids that differ.
std::vector<int32_t> SomeIds(Random* random, int vocab, int n) {
  std::vector<int32_t> ids;
  for (int i = 0; i < n; ++i) ids.push_back(random->Int(0, vocab - 1));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  std::shuffle(ids.begin(), ids.end(), random->engine());
  return ids;
}

// Each rule is on in about a third of the requests.
Request AnyRequest(Random* random, int vocab) {
  Request r;
  SampleParams& p = r.params;
  const auto on = [&](int of) { return random->Int(0, of - 1) == 0; };
  p.temperature = on(5) ? 0.0f : static_cast<float>(0.05 + 2.0 * random->Uniform());
  if (on(3)) p.top_k = random->Int(1, 60);
  if (on(3)) p.top_p = static_cast<float>(0.001 + 0.998 * random->Uniform());
  if (on(3)) p.min_p = static_cast<float>(0.3 * random->Uniform());
  if (on(4)) p.typical_p = static_cast<float>(0.05 + 0.9 * random->Uniform());
  if (on(3)) p.repetition_penalty = static_cast<float>(0.8 + random->Uniform());
  if (on(3)) p.frequency_penalty = static_cast<float>(random->Uniform());
  if (on(3)) p.presence_penalty = static_cast<float>(random->Uniform());
  p.seed = random->engine()();
  p.position = static_cast<uint64_t>(random->Int(0, 4096));
  if (on(10)) p.forced_token = random->Int(0, vocab - 1);
  for (int32_t id : SomeIds(random, vocab, on(3) ? 30 : 0)) {
    r.counts.push_back({id, random->Int(1, 5), random->Int(0, 1) == 1});
  }
  for (int32_t id : SomeIds(random, vocab, on(3) ? 10 : 0)) r.biases.push_back({id, 10.0f * random->Normal()});
  for (int i = on(8) ? 5 : 0; i > 0; --i) r.allowed.push_back(random->Int(0, vocab - 1));
  for (int i = on(3) ? 10 : 0; i > 0; --i) r.banned.push_back(random->Int(0, vocab - 1));
  p.num_top = random->Int(-1, kMaxTop);
  return r;
}

// From flat to peaked, with ties in every fourth.
std::vector<float> AnyLogits(Random* random, int vocab, int round) {
  std::vector<float> logits = random->Normals(static_cast<size_t>(vocab), round % 3 == 0 ? 0.3f : 4.0f);
  if (round % 4 == 0) {
    for (float& x : logits) x = std::round(x);
  }
  return logits;
}

class SamplerTest : public testing::DeviceTest {
 protected:
  // As a step does it: all rows in one launch. num_rows < 0: the kernel is told of none.
  std::vector<DeviceSampleResult> Raw(const std::vector<float>& logits, int vocab, const std::vector<Request>& requests,
                                      int num_rows = -1) {
    std::vector<SampleParams> params;
    for (const Request& r : requests) params.push_back(r.Params());
    const SampleListSizes sizes = CountSampleLists(params);
    std::vector<DeviceSampleParams> rows(params.size());
    std::vector<TokenCount> counts(sizes.counts);
    std::vector<TokenBias> biases(sizes.biases);
    std::vector<int32_t> ids(sizes.ids);
    FlattenSampleParams(params, rows.data(), counts.data(), biases.data(), ids.data());
    const auto d_logits = Upload(logits);
    const auto d_rows = Upload(rows);
    const auto d_counts = Upload(counts);
    const auto d_biases = Upload(biases);
    const auto d_ids = Upload(ids);
    const auto d_num = Upload(std::vector<int32_t>{num_rows});
    const auto scratch = Room<float>(logits.size());
    const auto results = Room<DeviceSampleResult>(requests.size());
    device_->Fill(results.data(), 0xA5, results.bytes());
    SampleRows(device_, d_logits.data(), vocab, static_cast<int>(requests.size()),
               num_rows < 0 ? nullptr : d_num.data(), d_rows.data(), {d_counts.data(), d_biases.data(), d_ids.data()},
               scratch.data(), results.data());
    EXPECT_EQ(Download(d_logits).size(), logits.size());
    return Download(results);
  }
  std::vector<SampleResult> Sample(const std::vector<float>& logits, int vocab, const std::vector<Request>& requests) {
    const std::vector<DeviceSampleResult> raw = Raw(logits, vocab, requests);
    std::vector<SampleResult> results(raw.size());
    for (size_t i = 0; i < raw.size(); ++i) ToSampleResult(raw[i], requests[i].params.num_top, &results[i]);
    return results;
  }
  SampleResult SampleOne(const std::vector<float>& logits, const Request& request) {
    return Sample(logits, static_cast<int>(logits.size()), {request})[0];
  }

  // The masses' sum is within 2^-23 + 2^-26 of the true one (sampler_numbers.h), which moves its logarithm as much;
  // both sides round to float once.
  static void ExpectLogprob(float got, float want) {
    if (std::isfinite(want)) {
      EXPECT_TRUE(std::fabs(got - want) <= 1.4e-7f + 0x1p-23f * std::fabs(want)) << got << " vs " << want;
    } else {
      EXPECT_EQ(got, want);
    }
  }
  // False: the tokens differ.
  static bool ExpectSame(const SampleResult& got, const float* logits, int vocab, const SampleParams& params) {
    SampleResult want;
    SampleReference(logits, vocab, params, &want);
    // The logprob, rank and list of another token are still to be right.
    SampleParams judged = params;
    judged.forced_token = got.token;
    const bool same = got.token == want.token;
    if (!same && got.token >= 0 && got.token < vocab) SampleReference(logits, vocab, judged, &want);
    ExpectLogprob(got.logprob, want.logprob);
    EXPECT_EQ(got.rank, want.rank);
    EXPECT_EQ(got.top_ids, want.top_ids);
    EXPECT_EQ(got.top_logprobs.size(), want.top_logprobs.size());
    for (size_t i = 0; i < std::min(got.top_logprobs.size(), want.top_logprobs.size()); ++i) {
      ExpectLogprob(got.top_logprobs[i], want.top_logprobs[i]);
    }
    return same;
  }
};

TEST_F(SamplerTest, GivesTheTokenOfTheReferenceForAllParameters) {
  Random random(1);
  const struct {
    int vocab, rows;
  } kCases[] = {{1, 10}, {2, 20}, {17, 100}, {257, 100}, {1000, 100}, {4099, 60}, {49152, 8}};
  int draws = 0, different = 0;
  for (const auto& c : kCases) {
    std::vector<float> logits;
    std::vector<Request> requests;
    for (int row = 0; row < c.rows; ++row) {
      const std::vector<float> one = AnyLogits(&random, c.vocab, row);
      logits.insert(logits.end(), one.begin(), one.end());
      requests.push_back(AnyRequest(&random, c.vocab));
    }
    const std::vector<SampleResult> got = Sample(logits, c.vocab, requests);
    for (int row = 0; row < c.rows; ++row) {
      SCOPED_TRACE(::testing::Message() << "vocab " << c.vocab << " row " << row);
      const auto i = static_cast<size_t>(row);
      ++draws;
      if (!ExpectSame(got[i], logits.data() + i * static_cast<size_t>(c.vocab), c.vocab, requests[i].Params())) {
        ++different;
        std::printf("vocab %d row %d: another token\n", c.vocab, row);
      }
    }
  }
  std::printf("%d of %d tokens differ from the reference's\n", different, draws);
  EXPECT_EQ(different, 0);
}

TEST_F(SamplerTest, FlatRowsDrawFromTheirWholeTailAndTiesGoById) {
  constexpr int kVocab = 20000;
  Random random(2);
  const std::vector<float> nearly = random.Normals(kVocab, 0.01f);
  const std::vector<float> equal(kVocab, -3.5f);
  std::vector<float> two(kVocab, 1.0f);
  for (size_t i = 0; i < two.size(); i += 3) two[i] = 1.5f;
  for (const std::vector<float>* logits : {&nearly, &equal, &std::as_const(two)}) {
    std::vector<float> all;
    std::vector<Request> requests;
    for (int rule = 0; rule < 6; ++rule) {
      Request r;
      r.params.position = static_cast<uint64_t>(rule);
      if (rule == 1) r.params.top_k = 5000;
      if (rule == 2) r.params.top_p = 0.7f;
      if (rule == 3) r.params.typical_p = 0.6f;
      if (rule == 4) r.params.min_p = 0.9f;
      if (rule == 5) r.params.top_k = 9000, r.params.top_p = 0.5f, r.params.typical_p = 0.75f;
      r.params.num_top = rule == 0 ? 20 : 0;
      requests.push_back(r);
      all.insert(all.end(), logits->begin(), logits->end());
    }
    const std::vector<SampleResult> got = Sample(all, kVocab, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_TRUE(ExpectSame(got[i], logits->data(), kVocab, requests[i].params)) << "rule " << i;
    }
  }
}

TEST_F(SamplerTest, BannedEverythingAndBrokenLogitsStillGiveAToken) {
  const std::vector<std::vector<float>> rows = {
      {1, 5, 2, 5, 0},
      {kNan, kNan, kNan, kNan, kNan},
      {kNan, -kInf, 3, kNan, -kInf},
      {0, kInf, 0, kInf, kNan},
      {kNan, 2, 7, 7, 1},
      {-kInf, -kInf, -kInf, -kInf, -kInf},
      {-0.0f, 0.0f, -0.0f, 0.0f, -1},
      {3e38f, -3e38f, 0, 3e38f, 1e-45f},
      {-1e-3f, 1e-3f, 0, -0.0f, 1e-2f},
  };
  for (size_t row = 0; row < rows.size(); ++row) {
    std::vector<Request> requests;
    std::vector<float> all;
    for (int kind = 0; kind < 12; ++kind) {
      Request r;
      r.params.temperature = kind % 3 == 0 ? 0.0f : 0.25f * static_cast<float>(kind);
      r.params.position = static_cast<uint64_t>(kind);
      r.params.num_top = kind;
      if (kind >= 6) r.banned = {0, 1, 2, 3, 4};
      if (kind >= 9) r.banned = {1, 1, 3}, r.biases = {{2, 3.0f}, {0, 2.0f}}, r.counts = {{2, 3, true}, {1, 1, true}};
      if (kind >= 10) r.allowed = {3, 2, 2};
      if (kind == 11) r.params.frequency_penalty = 0.5f, r.params.repetition_penalty = 1.5f;
      requests.push_back(r);
      all.insert(all.end(), rows[row].begin(), rows[row].end());
    }
    const std::vector<SampleResult> got = Sample(all, 5, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "row " << row << " kind " << i);
      EXPECT_TRUE(ExpectSame(got[i], rows[row].data(), 5, requests[i].Params()));
    }
  }
  Request all_banned;
  all_banned.banned = {0, 1, 2, 3, 4};
  EXPECT_EQ(SampleOne(rows[0], all_banned).token, 1);
  EXPECT_EQ(SampleOne(rows[1], {}).token, 0);
  EXPECT_EQ(SampleOne(rows[3], {}).token, 1);
}

// What each rule keeps where its border is exactly a token's: all that can be drawn of 24 draws, as the reference does.
TEST_F(SamplerTest, RulesKeepWhatTheySayAtTheirBorders) {
  const auto with = [](auto set) {
    Request r;
    set(&r.params);
    return r;
  };
  const struct {
    std::vector<float> logits;
    Request request;
    std::vector<int32_t> drawn;
  } kCases[] = {
      {{1, 1, 1, 1}, with([](SampleParams* p) { p->top_p = 0.5f; }), {0, 1}},
      {{1, 1, 1, 1}, with([](SampleParams* p) { p->top_p = 0.500001f; }), {0, 1, 2}},
      {{1, 1, 1, 1}, with([](SampleParams* p) { p->top_p = 1e-30f; }), {0}},
      {{1, 1, 1, 1}, with([](SampleParams* p) { p->typical_p = 0.75f; }), {0, 1, 2}},
      {{1, 1, 1, 1}, with([](SampleParams* p) { p->typical_p = 1e-30f; }), {0}},
      {{1, 2, 2, 1}, with([](SampleParams* p) { p->min_p = 1.0f; }), {1, 2}},
      {{1, 1, 2, 2, 1}, with([](SampleParams* p) { p->top_k = 3; }), {0, 2, 3}},
      {{1, 1, 2, 2, 1}, with([](SampleParams* p) { p->top_k = 5; }), {0, 1, 2, 3, 4}},
      {{1, 1, 1, 1}, with([](SampleParams* p) { p->top_k = 4, p->typical_p = 0.75f, p->top_p = 0.6f; }), {0, 1}},
  };
  for (const auto& c : kCases) {
    std::vector<float> logits;
    std::vector<Request> requests;
    for (uint64_t position = 0; position < 24; ++position) {
      requests.push_back(c.request);
      requests.back().params.position = position;
      logits.insert(logits.end(), c.logits.begin(), c.logits.end());
    }
    const int vocab = static_cast<int>(c.logits.size());
    const std::vector<SampleResult> got = Sample(logits, vocab, requests);
    std::vector<int32_t> drawn;
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_TRUE(ExpectSame(got[i], c.logits.data(), vocab, requests[i].params));
      drawn.push_back(got[i].token);
    }
    std::sort(drawn.begin(), drawn.end());
    drawn.erase(std::unique(drawn.begin(), drawn.end()), drawn.end());
    EXPECT_EQ(drawn, c.drawn) << "case " << &c - kCases;
  }
}

TEST_F(SamplerTest, PenaltiesTurnTheArgmax) {
  const auto greedy = [this](const std::vector<float>& logits, float repetition, float frequency, float presence,
                             const TokenCount& count) {
    Request r;
    r.params.temperature = 0.0f;
    r.params.repetition_penalty = repetition;
    r.params.frequency_penalty = frequency;
    r.params.presence_penalty = presence;
    r.counts = {count};
    const SampleResult got = SampleOne(logits, r);
    EXPECT_TRUE(ExpectSame(got, logits.data(), static_cast<int>(logits.size()), r.Params()));
    return got.token;
  };
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1.5f, 0, 0, {0, 1, false}), 1);    // divided where positive
  EXPECT_EQ(greedy({-1.0f, -1.2f}, 1.5f, 0, 0, {0, 1, false}), 1);  // multiplied where negative
  EXPECT_EQ(greedy({-1.0f, -1.8f}, 1.5f, 0, 0, {0, 1, false}), 0);
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1, 0.15f, 0, {0, 1, true}), 0);
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1, 0.15f, 0, {0, 2, true}), 1);   // for each occurrence
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1, 0.15f, 0, {0, 2, false}), 0);  // in the output only
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1, 0, 0.15f, {0, 2, true}), 0);
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1, 0, 0.25f, {0, 1, true}), 1);
  EXPECT_EQ(greedy({1.2f, 1.0f}, 1, 0, 0.25f, {0, 1, false}), 0);
}

TEST_F(SamplerTest, ExtremeTemperaturesAreGreedyOrUniform) {
  const std::vector<float> logits = {0.5f, 0.75f, -2.0f, 0.75f, 0.7499999f};
  for (uint64_t position = 0; position < 4; ++position) {
    Request r;
    r.params.position = position;
    r.params.temperature = 1e-44f;
    const int32_t greedy = SampleOne(logits, r).token;
    EXPECT_TRUE(greedy == 1 || greedy == 3) << greedy;  // equal logits share the mass at any temperature above 0
    r.params.temperature = 1e3f;
    EXPECT_TRUE(ExpectSame(SampleOne(logits, r), logits.data(), 5, r.params));
  }
}

// Pearson's statistic over 8 tokens (7 degrees of freedom) exceeds 24.3 in one of a thousand fair samples; the seed is
// fixed, so the test passes always or never.
TEST_F(SamplerTest, DrawsAsOftenAsTheProbabilitiesSay) {
  constexpr int kVocab = 8, kDraws = 400;
  const std::vector<float> one = {0.3f, -1.2f, 1.1f, 0.3f, 2.0f, -0.4f, 0.9f, -2.0f};
  double sum = 0;
  for (const float x : one) sum += std::exp(double{x} / 0.8);
  std::vector<float> logits;
  std::vector<Request> requests;
  for (int i = 0; i < kDraws; ++i) {
    Request r;
    r.params.temperature = 0.8f;
    r.params.seed = 77;
    r.params.position = static_cast<uint64_t>(i);
    requests.push_back(r);
    logits.insert(logits.end(), one.begin(), one.end());
  }
  std::vector<int> seen(kVocab, 0);
  for (const SampleResult& r : Sample(logits, kVocab, requests)) ++seen.at(static_cast<size_t>(r.token));
  double statistic = 0;
  for (size_t i = 0; i < kVocab; ++i) {
    const double expected = kDraws * std::exp(double{one[i]} / 0.8) / sum;
    statistic += (seen[i] - expected) * (seen[i] - expected) / expected;
  }
  EXPECT_TRUE(statistic <= 24.3) << statistic;
}

TEST_F(SamplerTest, RowsBeyondTheirNumberAreLeftAlone) {
  constexpr int kVocab = 300, kRows = 5;
  Random random(3);
  const std::vector<float> logits = random.Normals(kVocab * kRows, 2.0f);
  std::vector<Request> requests;
  for (int i = 0; i < kRows; ++i) requests.push_back(AnyRequest(&random, kVocab));
  const std::vector<DeviceSampleResult> all = Raw(logits, kVocab, requests);
  for (const int num : {0, 3}) {
    const std::vector<DeviceSampleResult> some = Raw(logits, kVocab, requests, num);
    for (int i = 0; i < kRows; ++i) {
      const auto at = static_cast<size_t>(i);
      if (i < num) {
        EXPECT_EQ(some[at].token, all[at].token);
      } else {
        const std::vector<uint8_t> untouched(sizeof(DeviceSampleResult), 0xA5);
        EXPECT_EQ(std::memcmp(&some[at], untouched.data(), untouched.size()), 0) << "row " << i;
      }
    }
  }
}

TEST_F(SamplerTest, TheSameRowGivesTheSameBitsEveryTime) {
  constexpr int kVocab = 1500, kRows = 4;
  Random random(4);
  std::vector<float> logits = AnyLogits(&random, kVocab * kRows, 1);
  std::vector<Request> requests;
  for (int i = 0; i < kRows; ++i) {
    requests.push_back(AnyRequest(&random, kVocab));
    requests.back().params.num_top = kMaxTop;
  }
  const std::vector<DeviceSampleResult> first = Raw(logits, kVocab, requests);
  for (int round = 0; round < 5; ++round) {
    const std::vector<DeviceSampleResult> again = Raw(logits, kVocab, requests);
    EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * sizeof first[0]), 0) << "round " << round;
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
