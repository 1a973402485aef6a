// Prefill attention against its definition in double on what the pages store (attention_cases.h), and what must not
// change a bit.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention_mask.h"
#include "kernels/cuda/attention.h"
#include "kernels/paged_kv.h"
#include "tests/kernels/cuda/attention_cases.h"
#include "tests/kernels/cuda/attention_rig.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::SequenceShape;
using testing::AttentionCase;
using testing::AttentionInputs;
using testing::kLayer;
using testing::kTolerance;
using testing::MakeInputs;

constexpr KvFormat kE4M3 = KvFormat::kE4M3, kInt8 = KvFormat::kInt8, kF16 = KvFormat::kF16;

// Rows of decode among those of prefill.
const std::vector<SequenceShape> kMixed = {{257, 33}, {5, 3}, {0, 8}, {17, 31}, {33, 1}, {1, 65}, {33, 9}};

class AttentionPrefill : public testing::AttentionTest {
 protected:
  std::vector<float> Prefill(const AttentionCase& c, const AttentionInputs& in) {
    return Run(c, in, [](const testing::AttentionLaunch& l) { PrefillAttention(l.device, l.args, l.batch, l.pages); });
  }
  // Rows of decode and padding must be untouched.
  void Check(const AttentionCase& c, const AttentionInputs& in) {
    const double error = Error(c, Prefill(c, in), Oracle(c, in, [](int rows) { return rows >= kPrefillRows; }));
    EXPECT_TRUE(error <= kTolerance) << error;
  }
};

AttentionCase Formats(KvFormat k, KvFormat v, int dim, int q_heads, int kv_heads, int page_tokens = 16) {
  AttentionCase c;
  c.k_format = k;
  c.v_format = v;
  c.dim = dim;
  c.q_heads = q_heads;
  c.kv_heads = kv_heads;
  c.page_tokens = page_tokens;
  return c;
}
AttentionCase Window(KvFormat format, int dim, int window, int sinks, int page_tokens = 16) {
  AttentionCase c = Formats(format, format, dim, 2, 1, page_tokens);
  c.window = window;
  c.sinks = sinks;
  return c;
}

TEST_F(AttentionPrefill, EveryFormatAndHeadDim) {
  for (const AttentionCase& c :
       {Formats(kE4M3, kE4M3, 64, 9, 3), Formats(kE4M3, kE4M3, 128, 8, 2, 32), Formats(kE4M3, kE4M3, 256, 2, 1),
        Formats(kInt8, kInt8, 64, 5, 1, 48), Formats(kInt8, kInt8, 128, 2, 2), Formats(kInt8, kInt8, 256, 1, 1),
        Formats(kInt8, kE4M3, 64, 2, 2), Formats(kInt8, kE4M3, 128, 16, 1, 64), Formats(kInt8, kE4M3, 256, 2, 1, 32),
        Formats(kF16, kF16, 64, 4, 2), Formats(kF16, kF16, 128, 3, 1, 48), Formats(kF16, kF16, 256, 2, 2)}) {
    SCOPED_TRACE(std::to_string(static_cast<int>(c.k_format)) + '/' + std::to_string(static_cast<int>(c.v_format)) +
                 " head_dim " + std::to_string(c.dim));
    Check(c, MakeInputs(c, kMixed));
  }
}

TEST_F(AttentionPrefill, EveryContextWithEveryRowCount) {
  std::vector<SequenceShape> sequences;
  for (const int context : {0, 1, 17, 33, 257}) {
    for (const int rows : {8, 9, 31, 33, 65}) sequences.push_back({context, rows});
  }
  // Where the first row is one of the last or the first that a tile, or a pair of tiles, has.
  for (const int context : {14, 15, 16, 30, 31, 32}) sequences.push_back({context, 8});
  const AttentionCase c = Formats(kE4M3, kE4M3, 64, 3, 1);
  Check(c, MakeInputs(c, sequences));
}

// More sequences than a warp has lanes, most of them decode's.
TEST_F(AttentionPrefill, ManySequences) {
  std::vector<SequenceShape> sequences;
  for (int i = 0; i < 100; ++i) sequences.push_back({i % 7, i % 9 == 5 || i == 99 ? 8 + i : 1 + i % 7});
  const AttentionCase c = Formats(kE4M3, kE4M3, 64, 2, 1);
  Check(c, MakeInputs(c, sequences));
}

TEST_F(AttentionPrefill, ABatchWithoutRowsForItWritesNothing) {
  const AttentionCase c = Formats(kE4M3, kE4M3, 64, 2, 1);
  Check(c, MakeInputs(c, {{40, 7}, {3, 1}, {16, 2}}));
}

// What the window hides from all rows of a sequence may be anything, in its pages too: they may have gone to others.
// (Not what it hides from some rows only: a weight of 0 meets what is stored there.)
TEST_F(AttentionPrefill, WindowsAndSinks) {
  for (const AttentionCase& c :
       {Window(kE4M3, 64, 37, 0), Window(kInt8, 64, 1, 1), Window(kE4M3, 128, 20, 3), Window(kF16, 64, 33, 17),
        Window(kE4M3, 64, 100, 40, 32), Window(kInt8, 128, 256, 16, 48), Window(kF16, 64, 1000, 4)}) {
    SCOPED_TRACE("window " + std::to_string(c.window));
    std::vector<SequenceShape> sequences = kMixed;
    // The last row's window begins at token 31, 32 and 33.
    for (const int begin : {31, 32, 33}) sequences.push_back({begin + c.window - 8, 8});
    AttentionInputs in = MakeInputs(c, c.window < 8 ? kMixed : sequences);
    for (size_t i = 0; i < in.batch.slices.size(); ++i) {
      const SequenceSlice& s = in.batch.slices[i];
      const SeenRuns seen = TokensSeen(c.shape().pattern(), s.context_tokens, s.context_tokens + s.num_rows - 1);
      const SeenRuns pages = PagesOf(seen, c.page_tokens);
      for (int t = 0; t < s.context_tokens; ++t) {
        if (!pages.Contains(t / c.page_tokens)) testing::PoisonToken(&in.batch, i, t);
      }
    }
    Check(c, in);
  }
}

TEST_F(AttentionPrefill, SoftCapAndSinkLogits) {
  AttentionCase c = Formats(kE4M3, kE4M3, 64, 6, 2);
  c.q_scale = 8.0f;
  c.soft_cap = 5.0f;
  Check(c, MakeInputs(c, kMixed));
  c.sink_logits = true;
  c.k_format = kInt8;
  Check(c, MakeInputs(c, kMixed));
  c.soft_cap = 0.0f;
  c.q_scale = 1.0f;
  c.window = 40;
  c.sinks = 2;
  c.dim = 128;
  Check(c, MakeInputs(c, kMixed));
}

TEST_F(AttentionPrefill, ASinkLogitAboveEverythingTakesAll) {
  AttentionCase c = Formats(kE4M3, kE4M3, 64, 2, 1);
  c.sink_logits = true;
  AttentionInputs in = MakeInputs(c, {{17, 20}});
  in.sink_logits.assign(in.sink_logits.size(), 1000.0f);
  const std::vector<float> out = Prefill(c, in);
  for (size_t i = 0; i < in.q.size(); ++i) ASSERT_EQ(out[i], 0.0f) << i;
}

// ---- Scales of V ----

// V of every token anew: random times 2^exponent(token); zero where that is above 1000.
template <typename Exponent>
AttentionInputs WithValues(const AttentionCase& c, const Exponent& exponent) {
  AttentionInputs in = MakeInputs(c, {{150, 40}});
  kernels::testing::Random random(17);
  const auto dim = static_cast<size_t>(c.dim);
  for (int t = 0; t < 190; ++t) {
    const std::vector<float> k = random.Normals(dim);
    std::vector<float> v = random.Normals(dim);
    for (float& x : v) x = exponent(t) > 1000 ? 0.0f : std::ldexp(x, exponent(t));
    AppendToken(in.batch.layout, testing::PageOfToken(in.batch, 0, t), kLayer, t % c.page_tokens, k.data(), v.data());
  }
  return in;
}

// A weight in f16 must not vanish because its V has a small scale.
TEST_F(AttentionPrefill, ValuesOfEveryMagnitude) {
  for (const AttentionCase& c :
       {Formats(kE4M3, kE4M3, 64, 2, 1), Formats(kInt8, kInt8, 64, 2, 1), Formats(kInt8, kE4M3, 128, 2, 1)}) {
    for (const int exponent : {-100, -40, 0, 60, 110}) {
      SCOPED_TRACE(exponent);
      Check(c, WithValues(c, [&](int) { return exponent; }));
    }
    Check(c, WithValues(c, [](int t) { return t * 37 % 161 - 100; }));
    Check(c, WithValues(c, [](int t) { return t % 5 == 0 ? 1001 : -8; }));
  }
}

// ---- What must not change a bit, or hardly ----

TEST_F(AttentionPrefill, ARunIsRepeatableAndPagesMayBeAnywhere) {
  for (const AttentionCase& c : {Formats(kE4M3, kE4M3, 64, 3, 1), Formats(kInt8, kE4M3, 128, 2, 1),
                                 Formats(kF16, kF16, 256, 1, 1), Window(kInt8, 64, 100, 40)}) {
    const std::vector<float> first = Prefill(c, MakeInputs(c, kMixed));
    for (const uint64_t page_seed : {3u, 3u, 3u, 4u, 5u}) {
      EXPECT_EQ(Prefill(c, MakeInputs(c, kMixed, page_seed)), first) << "pages of seed " << page_seed;
    }
  }
}

// Weights round alike whatever their reference is (attention_prefill_softmax.cuh), so a prompt in chunks differs from
// the whole in f32 sums only: 300 terms of random sign make sqrt(300) * 2^-24 = 1.0e-6, and where a change of the
// reference moves a score's last bit, about 2^-21 of the score, a few weights in a thousand round the other way.
TEST_F(AttentionPrefill, ChunksMakeNoDifference) {
  for (const AttentionCase& c : {Formats(kE4M3, kE4M3, 128, 4, 1), Formats(kInt8, kInt8, 64, 3, 1),
                                 Window(kE4M3, 64, 50, 5), Formats(kF16, kF16, 64, 2, 1)}) {
    const AttentionInputs whole = MakeInputs(c, {{0, 300}});
    const std::vector<float> all = Prefill(c, whole);
    const auto width = static_cast<std::ptrdiff_t>(c.q_heads * c.dim);
    int first = 0;
    for (const int rows : {37, 8, 150, 105}) {
      AttentionInputs chunk = whole;
      chunk.batch.slices = {{0, rows, first, whole.batch.tables[0].data()}};
      chunk.batch.positions.resize(static_cast<size_t>(rows));
      const std::ptrdiff_t begin = first * width, end = (first + rows) * width;
      chunk.q.assign(whole.q.begin() + begin, whole.q.begin() + end);
      std::vector<float> got = Prefill(c, chunk);
      got.resize(chunk.q.size());
      const double error = testing::RelativeL2(got, std::vector<double>(all.begin() + begin, all.begin() + end));
      EXPECT_TRUE(error <= 1e-5) << "rows from " << first << ": " << error;
      first += rows;
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
