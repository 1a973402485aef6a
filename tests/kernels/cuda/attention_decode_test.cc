// Decode attention against its definition: formats, shapes, masks, scales; and what must not change a bit.
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/attention_rig.h"

namespace dunlin::kernels::cuda {
namespace {

using testing::AttentionCase;
using testing::AttentionInputs;
using testing::kLayer;
using testing::MakeInputs;
using testing::OneRowEach;
using AttentionDecode = testing::DecodeTest;

const std::vector<int> kContexts = {1, 17, 31, 33, 257, 700};

void EveryGroup(KvFormat k, KvFormat v,
                const std::function<void(const AttentionCase&, const AttentionInputs&)>& check) {
  for (const int dim : {64, 128, 256}) {
    for (const int group : {1, 3, 4, 8, 9, 16}) {
      AttentionCase c;
      c.k_format = k;
      c.v_format = v;
      c.dim = dim;
      c.kv_heads = group < 4 ? 2 : 1;
      c.q_heads = group * c.kv_heads;
      SCOPED_TRACE("head_dim " + std::to_string(dim) + ", group " + std::to_string(group));
      const bool all = group == 3 || group == 9;
      check(c, MakeInputs(c, OneRowEach(all ? kContexts : std::vector<int>{1, 17, 31, 33, 257})));
    }
  }
}

TEST_F(AttentionDecode, E4M3) {
  EveryGroup(KvFormat::kE4M3, KvFormat::kE4M3, [&](const auto& c, const auto& in) { Check(c, in); });
}
TEST_F(AttentionDecode, Int8) {
  EveryGroup(KvFormat::kInt8, KvFormat::kInt8, [&](const auto& c, const auto& in) { Check(c, in); });
}
TEST_F(AttentionDecode, Int8KeysE4M3Values) {
  EveryGroup(KvFormat::kInt8, KvFormat::kE4M3, [&](const auto& c, const auto& in) { Check(c, in); });
}
TEST_F(AttentionDecode, F16) {
  EveryGroup(KvFormat::kF16, KvFormat::kF16, [&](const auto& c, const auto& in) { Check(c, in); });
}

// What the window hides may be anything, in its pages too: they may have gone to others.
TEST_F(AttentionDecode, WindowsAndSinks) {
  struct Mask {
    int window, sinks, page_tokens;
  };
  for (const Mask m : {Mask{1, 0, 16}, Mask{5, 3, 16}, Mask{16, 0, 32}, Mask{37, 20, 16}, Mask{256, 16, 64},
                       Mask{300, 0, 16}, Mask{255, 257, 48}}) {
    for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8}) {
      SCOPED_TRACE("window " + std::to_string(m.window));
      AttentionCase c;
      c.k_format = c.v_format = format;
      c.window = m.window;
      c.sinks = m.sinks;
      c.page_tokens = m.page_tokens;
      AttentionInputs in = MakeInputs(c, OneRowEach({1, 5, 17, 31, 33, 38, 257, 700}));
      for (size_t i = 0; i < in.batch.slices.size(); ++i) {
        const int position = in.batch.slices[i].context_tokens;
        const SeenRuns seen = TokensSeen(c.shape().pattern(), position, position);
        for (int t = 0; t < position; ++t) {
          if (!seen.Contains(t)) testing::PoisonToken(&in.batch, i, t);
        }
      }
      Check(c, in);
    }
  }
}

TEST_F(AttentionDecode, SoftCapAndSinkLogits) {
  AttentionCase c;
  c.q_scale = 8.0f;
  c.soft_cap = 5.0f;
  Check(c, MakeInputs(c, OneRowEach(kContexts)));
  c.sink_logits = true;
  Check(c, MakeInputs(c, OneRowEach(kContexts)));
  c.soft_cap = 0.0f;
  c.q_scale = 1.0f;
  c.window = 40;
  c.sinks = 2;
  c.dim = 128;
  Check(c, MakeInputs(c, OneRowEach(kContexts)));
}

TEST_F(AttentionDecode, ASinkLogitAboveEverythingTakesAll) {
  AttentionCase c;
  c.sink_logits = true;
  AttentionInputs in = MakeInputs(c, OneRowEach({17, 700}));
  in.sink_logits.assign(in.sink_logits.size(), 1000.0f);
  const std::vector<float> out = Decode(c, in);
  for (size_t i = 0; i < in.q.size(); ++i) ASSERT_EQ(out[i], 0.0f) << i;
}

TEST_F(AttentionDecode, NaNShows) {
  AttentionCase c;
  AttentionInputs in = MakeInputs(c, OneRowEach({700}));
  in.q[64] = NAN;  // of head 1
  const std::vector<float> out = Decode(c, in);
  for (size_t i = 0; i < in.q.size(); ++i) ASSERT_EQ(std::isnan(out[i]), i / 64 == 1) << i;
}

// Several rows of a sequence, as speculation verifies them; a sequence of kPrefillRows rows is left to prefill.
TEST_F(AttentionDecode, RowsOfASequence) {
  AttentionCase c;
  c.kv_heads = 2;
  c.q_heads = 6;
  c.page_tokens = 32;
  Check(c, MakeInputs(c, {{250, 7}, {40, 8}, {0, 5}, {0, 9}, {95, 1}, {300, 2}}));
  c.window = 20;
  c.sinks = 1;
  Check(c, MakeInputs(c, {{250, 7}, {40, 8}, {0, 5}, {0, 9}, {95, 1}, {300, 2}}));
}

TEST_F(AttentionDecode, ABatchWithoutRowsForItWritesNothing) {
  AttentionCase c;
  Check(c, MakeInputs(c, {{40, 8}}));
}

// More rows than the plan takes at a time.
TEST_F(AttentionDecode, ManyRows) {
  AttentionCase c;
  c.q_heads = 1;
  std::vector<kernels::testing::SequenceShape> sequences;
  for (int i = 0; i < 280; ++i)
    sequences.push_back(i % 9 == 4 ? kernels::testing::SequenceShape{3, 8}
                                   : kernels::testing::SequenceShape{i % 40, 1});
  Check(c, MakeInputs(c, sequences));
}

// ---- Scales far apart ----

// Rewrites every token's K and V: K has key(e) in dim 0 and nothing else, V is random times 2^e, e from low to high.
template <typename Key>
AttentionInputs SpreadInputs(const AttentionCase& c, const Key& key, int low = -100, int high = 60) {
  AttentionInputs in = MakeInputs(c, OneRowEach(kContexts));
  kernels::testing::Random random(17);
  const auto dim = static_cast<size_t>(c.dim);
  for (size_t i = 0; i < in.batch.slices.size(); ++i) {
    for (int t = 0; t <= in.batch.slices[i].context_tokens; ++t) {
      const int e = random.Int(low, high);
      std::vector<float> k(dim, 0.0f), v = random.Normals(dim);
      k[0] = key(e);
      for (float& x : v) x = std::ldexp(x, e);
      AppendToken(in.batch.layout, testing::PageOfToken(in.batch, i, t), kLayer, t % c.page_tokens, k.data(), v.data());
    }
  }
  for (size_t i = 0; i < in.q.size(); i += dim) in.q[i] = 1.0f;
  return in;
}

// The tokens of the largest V make the result, whatever the softmax's largest weight is.
TEST_F(AttentionDecode, ValuesOfEveryMagnitude) {
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8}) {
    AttentionCase c;
    c.k_format = c.v_format = format;
    Check(c, SpreadInputs(c, [](int e) { return e % 2 == 0 ? 3.0f : -5.0f; }));
  }
}

// Nothing large to measure the weights by: without a floor under the exponent that the reference follows, the sum of
// 700 weights of 2^121 would be infinite.
TEST_F(AttentionDecode, OnlyTinyValues) {
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8}) {
    AttentionCase c;
    c.k_format = c.v_format = format;
    Check(c, SpreadInputs(
                 c, [](int) { return 0.0f; }, -108, -107));
  }
}

// Scores that make up for the magnitudes: weights from 2^100 to 2^-60 of the mean, and all tokens count.
TEST_F(AttentionDecode, ValuesAsSmallAsTheirWeightsAreLarge) {
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8}) {
    AttentionCase c;
    c.k_format = c.v_format = format;
    const double factor = std::log(2.0) / static_cast<double>(c.shape().scale);
    Check(c, SpreadInputs(c, [&](int e) { return static_cast<float>(-e * factor); }));
  }
}

// ---- What must not change a bit, or hardly ----

std::vector<AttentionCase> SampleCases() {
  AttentionCase a, b, c;
  b.k_format = KvFormat::kInt8;
  b.dim = 128;
  b.q_heads = 18;
  b.kv_heads = 2;
  c.k_format = c.v_format = KvFormat::kF16;
  c.window = 290;
  c.sinks = 19;
  c.sink_logits = true;
  return {a, b, c};
}

TEST_F(AttentionDecode, ARunIsRepeatableAndPagesMayBeAnywhere) {
  for (const AttentionCase& c : SampleCases()) {
    const std::vector<float> first = Decode(c, MakeInputs(c, OneRowEach(kContexts)));
    for (uint64_t seed = 3; seed < 6; ++seed) {
      EXPECT_EQ(Decode(c, MakeInputs(c, OneRowEach(kContexts), seed)), first) << "pages of seed " << seed;
    }
  }
}

TEST_F(AttentionDecode, ARowsBitsAreItsOwn) {
  for (const AttentionCase& c : SampleCases()) {
    const AttentionInputs alone = MakeInputs(c, {{699, 1}});
    // Its pages hold the same values when it is the first of a batch.
    const AttentionInputs batch = MakeInputs(c, {{699, 1}, {5, 3}, {300, 1}, {20, 9}, {0, 1}}, 4);
    std::vector<float> want = Decode(c, alone), got = Decode(c, batch);
    want.resize(static_cast<size_t>(c.q_heads * c.dim));
    got.resize(want.size());
    EXPECT_EQ(got, want);
  }
}

// Weights round alike wherever the parts begin (attention_decode.h), so only f32 sums differ: 700 terms of random sign
// make sqrt(700) * 2^-24 = 1.6e-6.
TEST_F(AttentionDecode, PartsMakeNoDifference) {
  for (AttentionCase c : SampleCases()) {
    const AttentionInputs in = MakeInputs(c, OneRowEach({257, 700}));
    c.max_parts = 1;
    const std::vector<float> whole = Decode(c, in);
    for (const int parts : {2, 3}) {
      c.max_parts = parts;
      std::vector<float> got = Decode(c, in);
      got.resize(in.q.size());
      EXPECT_TRUE(testing::RelativeL2(
                      got, std::vector<double>(whole.begin(),
                                               whole.begin() + static_cast<std::ptrdiff_t>(in.q.size()))) <= 1e-5)
          << parts;
    }
  }
}

// More parts than a warp has lanes.
TEST_F(AttentionDecode, ManyParts) {
  AttentionCase c;
  Check(c, MakeInputs(c, OneRowEach({11000})));
}

TEST(AttentionUnsupported, SaysWhat) {
  AttentionCase c;
  EXPECT_EQ(AttentionUnsupported(c.shape(), c.layout()), nullptr);
  const auto refuses = [](AttentionCase other) {
    return AttentionUnsupported(other.shape(), other.layout()) != nullptr;
  };
  AttentionCase wide = c;
  wide.q_heads = 17;
  EXPECT_TRUE(refuses(wide));
  AttentionCase uneven = c;
  uneven.kv_heads = 2;
  EXPECT_TRUE(refuses(uneven));
  AttentionCase dim = c;
  dim.dim = 96;
  EXPECT_TRUE(refuses(dim));
  AttentionCase format = c;
  format.v_format = KvFormat::kF16;
  EXPECT_TRUE(refuses(format));
  AttentionCase pages = c;
  pages.page_tokens = 8;
  EXPECT_TRUE(refuses(pages));
  AttentionShape top = c.shape();
  top.top_pages = 4;
  EXPECT_NE(AttentionUnsupported(top, c.layout()), nullptr);
  PageLayout host = PageLayout::Create(16, 2, 1, 64, KvFormat::kE4M3, KvFormat::kE4M3);
  EXPECT_NE(AttentionUnsupported(c.shape(), host), nullptr);
}

}  // namespace
}  // namespace dunlin::kernels::cuda
