// Paged attention and the append path: against the plain reference on the same pages, and bit for bit across batches,
// page orders, threads and instruction set families.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "base/check.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/kv_rounding.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cpu {
namespace {

using testing::AttentionCase;
using testing::FillPages;
using testing::kAttentionCases;
using testing::MakeBatch;
using testing::PagedBatch;
using testing::Random;
using testing::SequenceShape;

constexpr int kLayers = 2;
constexpr int kLayer = 1;

AttentionShape ShapeOf(const AttentionCase& c) {
  return {c.q_heads, c.kv_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
          c.window,  c.sinks,    c.top_pages};
}
PageLayout LayoutOf(const AttentionCase& c) {
  return PageLayout::Create(c.page_tokens, kLayers, c.kv_heads, c.head_dim, c.k_format, c.v_format, c.top_pages > 0);
}

std::unique_ptr<CpuOps> MakeOps(int threads, Isa isa, const AttentionShape& shape, int max_rows = 64) {
  auto ops = std::make_unique<CpuOps>(threads, isa);
  OpLimits limits;
  limits.max_rows = max_rows;
  limits.max_context = 2048;
  limits.hidden = 64;
  limits.vocab = 1;
  limits.attention = shape;
  ops->Reserve(limits);
  return ops;
}

template <typename Ops>
std::vector<float> Attend(Ops* ops, const AttentionShape& shape, const PagedBatch& b, const std::vector<float>& q) {
  constexpr float kCanary = 54321.0f;
  std::vector<float> out(q.size() + 16, kCanary);
  ops->PagedAttention(shape, b.view(), b.kv, kLayer, q.data(), out.data());
  for (size_t i = q.size(); i < out.size(); ++i) EXPECT_EQ(out[i], kCanary) << "written past the end";
  out.resize(q.size());
  return out;
}

// Sequences of every kind in one batch: fresh prefills, chunks behind a context, decode steps, nothing at all.
std::vector<SequenceShape> Mixed() {
  return {{0, 1}, {0, 17}, {31, 1}, {33, 5}, {257, 1}, {250, 9}, {511, 1}, {700, 2}, {40, 0}, {1, 1}};
}

class AttentionTest : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(AttentionTest, AgreesWithTheReferenceOnTheSamePages) {
  const AttentionShape shape = ShapeOf(GetParam());
  PagedBatch b = MakeBatch(LayoutOf(GetParam()), Mixed(), 1);
  FillPages(&b, 2);
  Random random(3);
  const std::vector<float> q =
      random.Normals(b.positions.size() * static_cast<size_t>(shape.num_q_heads * shape.head_dim));
  ReferenceOps reference;
  const std::vector<float> expected = Attend(&reference, shape, b, q);
  for (Isa isa : SupportedIsas()) {
    auto ops = MakeOps(2, isa, shape);
    const std::vector<float> out = Attend(ops.get(), shape, b, q);
    // Scores err by head_dim roundings of terms of about 5, so weights by as much; values are below 6.
    const double tolerance = (GetParam().head_dim + 64) * 6.0 * 0x1p-24 * 8.0;
    for (size_t i = 0; i < out.size(); ++i) {
      const double error = std::fabs(double{out[i]} - double{expected[i]});
      ASSERT_TRUE(error <= tolerance) << IsaName(isa) << " value " << i << ": " << out[i] << " vs " << expected[i];
    }
  }
}

TEST_P(AttentionTest, ARowIsTheSameBitsInAnyChunkPageOrderThreadsAndFamily) {
  const AttentionShape shape = ShapeOf(GetParam());
  const size_t width = static_cast<size_t>(shape.num_q_heads * shape.head_dim);
  constexpr int kTokens = 600;
  // One sequence whose last 40 rows are computed: as one chunk, and each by itself.
  constexpr int kRows = 40;
  Random random(4);
  const std::vector<float> q = random.Normals(kRows * width);
  PagedBatch chunk = MakeBatch(LayoutOf(GetParam()), {{kTokens - kRows, kRows}}, 5);
  FillPages(&chunk, 6);
  const std::vector<float> expected = Attend(MakeOps(1, Isa::kScalar, shape).get(), shape, chunk, q);
  for (float x : expected) ASSERT_TRUE(std::isfinite(x));
  for (int threads : {1, 2, 4}) {
    PagedBatch other = MakeBatch(LayoutOf(GetParam()), {{kTokens - kRows, kRows}}, 70 + static_cast<uint64_t>(threads));
    FillPages(&other, 6);
    for (Isa isa : SupportedIsas()) {
      auto ops = MakeOps(threads, isa, shape);
      const std::vector<float> out = Attend(ops.get(), shape, other, q);
      ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0) << IsaName(isa);
      for (int r = 0; r < kRows; r += 3) {
        // The same sequence cut after this row: a decode step, alone or (odd rows) beside another sequence.
        PagedBatch step = other;
        step.kv.base = step.memory.data();
        step.slices = {{0, 1, kTokens - kRows + r, step.tables[0].data()}};
        step.positions = {kTokens - kRows + r};
        step.token_ids = {0};
        std::vector<float> row(q.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(r) * width),
                               q.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(r + 1) * width));
        if (r % 2 == 1) {
          step.slices.push_back({1, 1, 100, step.tables[0].data()});
          step.positions.push_back(100);
          step.token_ids.push_back(0);
          row.insert(row.end(), q.begin(), q.begin() + static_cast<std::ptrdiff_t>(width));
        }
        const std::vector<float> alone = Attend(ops.get(), shape, step, row);
        ASSERT_EQ(std::memcmp(alone.data(), expected.data() + static_cast<size_t>(r) * width, width * sizeof(float)), 0)
            << IsaName(isa) << ", " << threads << " threads, row " << r;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest, ::testing::ValuesIn(kAttentionCases),
                         [](const ::testing::TestParamInfo<AttentionCase>& i) { return std::string(i.param.name); });

// A layer's rounding of one of K and V: random centres, orders and feedback of a random metric.
struct RandomRounding {
  std::vector<float> centre, feedback;
  std::vector<uint16_t> order;
  KvVectorRounding view() const { return {centre.data(), order.data(), feedback.data()}; }
};

RandomRounding MakeRounding(int heads, int dim, float scale, Random* random) {
  RandomRounding r;
  r.centre = random->Normals(static_cast<size_t>(heads * dim), scale);
  for (int h = 0; h < heads; ++h) {
    const auto n = static_cast<size_t>(dim);
    std::vector<double> metric(n * n);
    for (int sample = 0; sample < 16; ++sample) {
      const std::vector<float> q = random->Normals(n);
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) metric[i * n + j] += double{q[i]} * double{q[j]} + 1.0;
      }
    }
    std::vector<uint16_t> order(n);
    std::iota(order.begin(), order.end(), uint16_t{0});
    std::shuffle(order.begin(), order.end(), random->engine());
    std::vector<float> feedback(KvFeedbackValues(dim));
    CHECK(MakeKvFeedback(metric, dim, 0.01, order, feedback));
    r.order.insert(r.order.end(), order.begin(), order.end());
    r.feedback.insert(r.feedback.end(), feedback.begin(), feedback.end());
  }
  return r;
}

TEST(AppendTest, EveryFamilyWritesTheBitsOfTheDefinition) {
  Random random(7);
  for (const AttentionCase& c : kAttentionCases) {
    const PageLayout layout = LayoutOf(c);
    const size_t width = static_cast<size_t>(c.kv_heads * c.head_dim);
    for (int round = 0; round < 60; ++round) {
      const float scale = std::exp2(static_cast<float>(random.Int(-60, 60)));
      std::vector<float> k = random.Normals(width, scale), v = random.Normals(width, scale);
      // Values where formats turn: halfway cases, the format's limits, zeros of both signs, tiny and broken ones.
      const float specials[] = {448.0f, 464.0f, -448.0f, 0x1p-6f, 0x1.8p-10f, 0x1p-10f, 17.0f, 19.0f, 0.0f, -0.0f};
      if (round % 4 == 1) {
        for (float& x : k) x = specials[static_cast<size_t>(random.Int(0, 9))];
      }
      if (round % 4 == 2) {  // the largest value exactly at, and just above, the format's limit times a power of two
        for (float& x : k) x = 448.0f * scale * static_cast<float>(random.Int(-8, 8)) / 8.0f;
        k[0] = 448.0f * scale;
        for (float& x : v) x = std::nextafter(448.0f, 1000.0f) * scale * static_cast<float>(random.Int(-1, 1));
        v[0] = std::nextafter(448.0f, 1000.0f) * scale;
      }
      if (round == 2) std::fill(v.begin(), v.end(), -0.0f);
      if (round == 3) std::fill(k.begin(), k.end(), 1e-42f);
      if (round == 6) v[width / 2] = std::numeric_limits<float>::quiet_NaN();
      if (round == 7) k[0] = std::numeric_limits<float>::infinity();
      if (round == 10) v[1] = std::numeric_limits<float>::max();
      const int slot = random.Int(0, c.page_tokens - 1);
      KvRounding rounding;
      RandomRounding k_rounding, v_rounding;
      if (round % 3 != 0) {
        k_rounding = MakeRounding(c.kv_heads, c.head_dim, scale, &random);
        v_rounding = MakeRounding(c.kv_heads, c.head_dim, scale, &random);
        if (round % 3 == 1) rounding.k.centre = k_rounding.centre.data();
        if (round % 3 == 2)
          rounding = {k_rounding.view(), {nullptr, v_rounding.order.data(), v_rounding.feedback.data()}};
      }
      std::vector<uint8_t> expected(layout.page_bytes, 0xFF);
      const int saturated = AppendToken(layout, expected.data(), kLayer, slot, k.data(), v.data(), rounding);
      for (Isa isa : SupportedIsas()) {
        std::vector<uint8_t> page(layout.page_bytes, 0xFF);
        EXPECT_EQ(GetKernels(isa).append_token(layout, page.data(), kLayer, slot, k.data(), v.data(), rounding),
                  saturated);
        ASSERT_EQ(page, expected) << c.name << ' ' << IsaName(isa) << " round " << round;
      }
    }
  }
}

// Tokens of several sequences and of one page, some of them tiny or broken, appended together and one by one.
TEST(AppendTest, TokensTogetherAreTheBitsOfEachAlone) {
  Random random(8);
  for (const AttentionCase& c : kAttentionCases) {
    const PageLayout layout = LayoutOf(c);
    const auto width = static_cast<size_t>(c.kv_heads * c.head_dim);
    const RandomRounding k_rounding = MakeRounding(c.kv_heads, c.head_dim, 1.0f, &random);
    const RandomRounding v_rounding = MakeRounding(c.kv_heads, c.head_dim, 1.0f, &random);
    const KvRounding roundings[] = {
        {},
        {k_rounding.view(), v_rounding.view()},
        {k_rounding.view(), {nullptr, v_rounding.order.data(), v_rounding.feedback.data()}}};
    for (const int count : {1, 3, 4, 8, 9, 16, 17, 40}) {
      SCOPED_TRACE(::testing::Message() << c.name << ", " << count << " tokens, seed 8");
      constexpr int kPages = 12;
      const bool one_run = random.Int(0, 1) == 0;  // else shuffled over the pages
      std::vector<int> places(static_cast<size_t>(kPages * layout.page_tokens));
      std::iota(places.begin(), places.end(), 0);
      if (!one_run) std::shuffle(places.begin(), places.end(), random.engine());
      std::vector<float> k = random.Normals(width * static_cast<size_t>(count));
      std::vector<float> v = random.Normals(width * static_cast<size_t>(count));
      if (count > 3) {
        std::fill_n(k.begin() + static_cast<std::ptrdiff_t>(width), width, -0.0f);
        v[2 * width] = std::numeric_limits<float>::quiet_NaN();
        k[3 * width + 5] = -std::numeric_limits<float>::infinity();
      }
      const KvRounding& rounding = roundings[random.Int(0, 2)];
      const auto append = [&](const auto& write) {
        std::vector<uint8_t> pages(layout.page_bytes * kPages, 0xFF);
        std::vector<TokenSlot> tokens;
        for (size_t t = 0; t < static_cast<size_t>(count); ++t) {
          const int place = places[t];
          tokens.push_back({pages.data() + static_cast<size_t>(place / layout.page_tokens) * layout.page_bytes,
                            place % layout.page_tokens, k.data() + t * width, v.data() + t * width});
        }
        const int saturated = write(tokens);
        return std::pair(pages, saturated);
      };
      const auto expected = append([&](const std::vector<TokenSlot>& tokens) {
        int saturated = 0;
        for (const TokenSlot& t : tokens) saturated += AppendToken(layout, t.page, kLayer, t.slot, t.k, t.v, rounding);
        return saturated;
      });
      for (const Isa isa : SupportedIsas()) {
        const auto got = append([&](const std::vector<TokenSlot>& tokens) {
          return GetKernels(isa).append_tokens(layout, kLayer, tokens.data(), count, rounding);
        });
        EXPECT_EQ(got.second, expected.second) << IsaName(isa);
        ASSERT_TRUE(got.first == expected.first) << IsaName(isa);
      }
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cpu
