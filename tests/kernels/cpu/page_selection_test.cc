// Page-level top-k selection through the ops: what is picked, that all pages are dense attention bit for bit, the key
// bounds that a step writes, and what is read.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cpu {
namespace {

using testing::FillPages;
using testing::MakeBatch;
using testing::MakeRope;
using testing::PagedBatch;
using testing::Random;
using testing::RandomWeights;

std::unique_ptr<CpuOps> MakeOps(int threads, Isa isa, const AttentionShape& shape) {
  auto ops = std::make_unique<CpuOps>(threads, isa);
  OpLimits limits;
  limits.max_rows = 64;
  limits.max_context = 1024;
  limits.hidden = 64;
  limits.vocab = 1;
  limits.attention = shape;
  ops->Reserve(limits);
  return ops;
}

template <typename Ops>
std::vector<float> Attend(Ops* ops, const AttentionShape& shape, const PagedBatch& b, const std::vector<float>& q,
                          Traffic* traffic = nullptr) {
  std::vector<float> out(q.size());
  const Traffic t = ops->PagedAttention(shape, b.view(), b.kv, 0, q.data(), out.data());
  if (traffic != nullptr) *traffic = t;
  return out;
}

size_t QueryFloats(const AttentionShape& shape, const PagedBatch& b) {
  return b.positions.size() * static_cast<size_t>(shape.num_q_heads * shape.head_dim);
}

TEST(PageSelection, AllPagesAreDenseAttentionBitForBit) {
  const PageLayout plain = PageLayout::Create(16, 1, 2, 64, KvFormat::kE4M3, KvFormat::kE4M3);
  const PageLayout bounded = PageLayout::Create(16, 1, 2, 64, KvFormat::kE4M3, KvFormat::kE4M3, true);
  Random random(1);
  for (const AttentionShape& dense : {AttentionShape{6, 2, 64, 0.125f}, AttentionShape{6, 2, 64, 0.125f, 300, 20}}) {
    AttentionShape selecting = dense;
    for (const auto& sequences : {std::vector<testing::SequenceShape>{{700, 1}},
                                  std::vector<testing::SequenceShape>{{0, 20}, {15, 1}, {16, 1}, {639, 3}, {640, 9}}}) {
      PagedBatch a = MakeBatch(plain, sequences, 1), b = MakeBatch(bounded, sequences, 2);
      FillPages(&a, 3);
      FillPages(&b, 3);
      const std::vector<float> q = random.Normals(QueryFloats(dense, a));
      const std::vector<float> expected = Attend(MakeOps(2, SupportedIsas()[0], dense).get(), dense, a, q);
      // 44 pages at most: exactly all of them, and more.
      for (const int pages : {44, 45, 1 << 30}) {
        selecting.top_pages = pages;
        for (const Isa isa : SupportedIsas()) {
          Traffic traffic;
          const std::vector<float> got = Attend(MakeOps(3, isa, selecting).get(), selecting, b, q, &traffic);
          EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
              << IsaName(isa) << " of " << pages;
        }
      }
      selecting.top_pages = 4;
      EXPECT_NE(Attend(MakeOps(2, Isa::kScalar, selecting).get(), selecting, b, q), expected)
          << "four pages are not all";
    }
  }
}

// The pages that hold weight for one query head: values are one-hot by page, so what comes out is the pages' shares.
constexpr int kShown = 64;  // pages told apart, and head_dim
std::set<int> PagesWithWeight(const float* out) {
  std::set<int> pages;
  for (int p = 0; p < kShown; ++p) {
    if (out[p] > 0.0f) pages.insert(p);
  }
  return pages;
}

void FillWithPageNumbers(PagedBatch* b, Random* random) {
  const auto width = static_cast<size_t>(b->layout.num_kv_heads * kShown);
  for (size_t i = 0; i < b->slices.size(); ++i) {
    for (int t = 0; t < b->slices[i].context_tokens + b->slices[i].num_rows; ++t) {
      const int page = t / b->layout.page_tokens;
      std::vector<float> v(width, 0.0f);
      for (int head = 0; head < b->layout.num_kv_heads; ++head) v[static_cast<size_t>(head * kShown + page)] = 1.0f;
      uint8_t* memory = b->kv.page(b->tables[i][static_cast<size_t>(page)]);
      AppendToken(b->layout, memory, 0, t % b->layout.page_tokens, random->Normals(width).data(), v.data());
      if ((t + 1) % b->layout.page_tokens == 0) WriteKeyBounds(b->layout, memory, 0);
    }
  }
}

// The bound of a page by its definition, in double, from the keys that read back; a format's bounds may be wider by the
// rounding to bfloat16.
double TrueBound(const PagedBatch& b, size_t sequence, int page, int kv_head, const float* q, int group) {
  const uint8_t* memory = b.kv.page(b.tables[sequence][static_cast<size_t>(page)]);
  std::vector<double> min(kShown, INFINITY), max(kShown, -INFINITY);
  for (int slot = 0; slot < b.layout.page_tokens; ++slot) {
    float key[kShown];
    ReadKey(b.layout, memory, 0, kv_head, slot, key);
    for (size_t d = 0; d < kShown; ++d) {
      min[d] = std::min(min[d], double{key[d]});
      max[d] = std::max(max[d], double{key[d]});
    }
  }
  double best = -INFINITY;
  for (int h = 0; h < group; ++h) {
    double sum = 0.0;
    for (size_t d = 0; d < kShown; ++d) {
      const double value = q[static_cast<size_t>(h) * kShown + d];
      sum += std::max(value * min[d], value * max[d]);
    }
    best = std::max(best, sum);
  }
  return best;
}

TEST(PageSelection, EveryRowPicksItsOwnPageThePageZeroAndTheTrueTopScores) {
  constexpr int kQHeads = 6, kKvHeads = 2, kGroup = 3;
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8, KvFormat::kF16, KvFormat::kBF16, KvFormat::kF32}) {
    const PageLayout layout = PageLayout::Create(16, 1, kKvHeads, kShown, format, KvFormat::kF32, true);
    // Bounds of E4M3 and BF16 keys are exact; others are rounded outward by at most 2^-7 of a value of at most about 5.
    const bool exact = format == KvFormat::kE4M3 || format == KvFormat::kBF16;
    const double slack = exact ? 1e-3 : 0x1p-7 * 2.0 * kShown;
    for (const int top : {1, 2, 3, 9}) {
      SCOPED_TRACE(::testing::Message() << "format " << static_cast<int>(format) << " top " << top << " seed 20");
      Random random(20);
      PagedBatch b = MakeBatch(layout, {{900, 1}, {495, 30}, {0, 20}}, 21);
      FillWithPageNumbers(&b, &random);
      const AttentionShape shape{kQHeads, kKvHeads, kShown, 0.05f, 0, 0, top};
      const std::vector<float> q = random.Normals(QueryFloats(shape, b));
      const std::vector<float> out = Attend(MakeOps(2, SupportedIsas().back(), shape).get(), shape, b, q);
      for (size_t i = 0; i < b.slices.size(); ++i) {
        for (int r = 0; r < b.slices[i].num_rows; ++r) {
          const int own = (b.slices[i].context_tokens + r) / 16;
          for (int head = 0; head < kKvHeads; ++head) {
            const size_t at = static_cast<size_t>(((b.slices[i].first_row + r) * kQHeads + head * kGroup) * kShown);
            const std::set<int> picked = PagesWithWeight(&out[at]);
            for (size_t h = 1; h < kGroup; ++h) EXPECT_EQ(PagesWithWeight(&out[at + h * kShown]), picked);
            EXPECT_EQ(static_cast<int>(picked.size()), std::min(top, own + 1));
            EXPECT_EQ(picked.count(own), 1u);
            EXPECT_TRUE(top < 2 || picked.count(0) == 1u);
            double worst_picked = INFINITY, best_left = -INFINITY;
            for (int p = 1; p < own; ++p) {
              const double bound = TrueBound(b, i, p, head, &q[at], kGroup);
              if (picked.count(p) != 0) {
                worst_picked = std::min(worst_picked, bound);
              } else if (top > 2) {
                best_left = std::max(best_left, bound);
              }
            }
            EXPECT_GE(worst_picked, best_left - slack);
          }
        }
      }
    }
  }
}

TEST(PageSelection, EqualBoundsPickTheLowerPages) {
  const PageLayout layout = PageLayout::Create(16, 1, 1, kShown, KvFormat::kE4M3, KvFormat::kF32, true);
  PagedBatch b = MakeBatch(layout, {{330, 1}}, 1);
  Random random(5);
  FillWithPageNumbers(&b, &random);
  const std::vector<float> q(2 * kShown, 0.0f);  // every bound is zero
  const AttentionShape shape{2, 1, kShown, 0.05f, 0, 0, 5};
  for (const Isa isa : SupportedIsas()) {
    const std::vector<float> out = Attend(MakeOps(1, isa, shape).get(), shape, b, q);
    EXPECT_EQ(PagesWithWeight(out.data()), (std::set<int>{0, 1, 2, 3, 20})) << IsaName(isa);
  }
}

// Where a few keys draw most of the weight, a few pages give nearly the dense result.
TEST(PageSelection, FindsWhereTheWeightIs) {
  constexpr int kDim = 64, kTokens = 1000;
  const PageLayout layout = PageLayout::Create(16, 1, 1, kDim, KvFormat::kE4M3, KvFormat::kE4M3, true);
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Random random(seed);
    PagedBatch b = MakeBatch(layout, {{kTokens - 1, 1}}, seed);
    std::vector<float> q = random.Normals(kDim);
    float square = 0.0f;
    for (const float x : q) square += x * x;
    for (float& x : q) x *= 8.0f / std::sqrt(square);
    std::set<int> strong;
    while (strong.size() < 5) strong.insert(random.Int(16, kTokens - 40));
    for (int t = 0; t < kTokens; ++t) {
      std::vector<float> k = random.Normals(kDim, 0.5f);
      const std::vector<float> v = random.Normals(kDim);
      if (strong.count(t) != 0) {
        for (size_t d = 0; d < kDim; ++d) k[d] = 1.5f * q[d];  // a score of 12; the others' spread is 0.5
      }
      uint8_t* page = b.kv.page(b.tables[0][static_cast<size_t>(t / 16)]);
      AppendToken(layout, page, 0, t % 16, k.data(), v.data());
      if ((t + 1) % 16 == 0) WriteKeyBounds(layout, page, 0);
    }
    const auto attend = [&](int top) {
      const AttentionShape shape{1, 1, kDim, 0.125f, 0, 0, top};
      return Attend(MakeOps(2, SupportedIsas().back(), shape).get(), shape, b, q);
    };
    const std::vector<float> dense = attend(0);
    const auto error = [&dense](const std::vector<float>& got) {
      double difference = 0.0, size = 0.0;
      for (size_t i = 0; i < got.size(); ++i) {
        difference += std::pow(double{got[i]} - double{dense[i]}, 2);
        size += std::pow(double{dense[i]}, 2);
      }
      return std::sqrt(difference / size);
    };
    // Eight of 63 pages: its own, page 0, the strong ones (at most five) and one more.
    EXPECT_LT(error(attend(8)), 0.01);
    EXPECT_GT(error(attend(2)), 0.2) << "without them the result is another";
  }
}

TEST(PageSelection, EveryFamilyWritesTheBoundsOfTheDefinition) {
  Random random(8);
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8, KvFormat::kF16, KvFormat::kBF16, KvFormat::kF32}) {
    for (const int page_tokens : {8, 16, 32, 64}) {
      const PageLayout layout = PageLayout::Create(page_tokens, 2, 3, 40, format, KvFormat::kE4M3, true);
      for (int round = 0; round < 12; ++round) {
        const float scale = std::exp2(static_cast<float>(random.Int(-40, 40)));
        std::vector<uint8_t> expected(layout.page_bytes, 0xFF);
        for (int t = 0; t < page_tokens; ++t) {
          std::vector<float> k = random.Normals(120, scale);
          if (round % 3 == 1) {
            for (float& x : k) x = random.Int(0, 1) == 0 ? 0.0f : -0.0f;
          }
          if (round % 3 == 2) k[7] = -std::fabs(k[7]), k[8] = 1e-42f, k[9] = -1e-42f;
          if (round == 5 && t == 3) k[50] = std::nanf("");
          AppendToken(layout, expected.data(), 1, t, k.data(), k.data());
        }
        const std::vector<uint8_t> page = expected;
        WriteKeyBounds(layout, expected.data(), 1);
        EXPECT_NE(page, expected);
        for (const Isa isa : SupportedIsas()) {
          std::vector<uint8_t> mine = page;
          std::vector<float> scratch(static_cast<size_t>((page_tokens + 2) * 40));
          GetKernels(isa).key_bounds(layout, mine.data(), 1, scratch.data());
          ASSERT_EQ(mine, expected) << IsaName(isa) << " format " << static_cast<int>(format) << " round " << round;
        }
      }
    }
  }
}

// A step's rows complete pages whose first slots earlier steps wrote; the pages' bytes do not depend on the steps.
TEST(PageSelection, TheStepThatWritesAPagesLastSlotWritesItsBounds) {
  constexpr int kHidden = 64, kKvHeads = 2, kDim = 32, kTokens = 100;
  const AttentionShape shape{4, kKvHeads, kDim, 0.2f, 0, 0, 3};
  const PageLayout layout = PageLayout::Create(8, 1, kKvHeads, kDim, KvFormat::kE4M3, KvFormat::kE4M3, true);
  Random random(9);
  const std::vector<uint8_t> wq = RandomWeights(DType::kF32, 4 * kDim * kHidden, &random),
                             wk = RandomWeights(DType::kF32, kKvHeads * kDim * kHidden, &random);
  const std::vector<float> x = random.Normals(kTokens * kHidden), norm(kHidden, 1.0f);
  const auto rope = MakeRope(kTokens, kDim, RopePairing::kHalves);
  const auto run = [&](int threads, Isa isa, int chunk) {
    auto ops = MakeOps(threads, isa, shape);
    const CpuMatrix q = ops->Pack(DType::kF32, 4 * kDim, kHidden, wq);
    const CpuMatrix k = ops->Pack(DType::kF32, kKvHeads * kDim, kHidden, wk);
    AttentionInputArgs<CpuMatrix> args;
    args.wq = &q;
    args.wk = args.wv = &k;
    args.norm = norm.data();
    args.rope = &rope.table;
    PagedBatch b = MakeBatch(layout, {{0, kTokens}}, 4);
    std::vector<float> out(64 * 4 * kDim);
    uint64_t written = 0;
    int64_t saturated = 0;
    for (int at = 0; at < kTokens; at += chunk) {
      const int rows = std::min(chunk, kTokens - at);
      const SequenceSlice slice{0, rows, at, b.tables[0].data()};
      const BatchView view{rows, b.token_ids.data(), b.positions.data() + at, {&slice, 1}};
      written +=
          ops->AttentionInput(args, shape, view, b.kv, x.data() + at * kHidden, out.data(), &saturated).kv_write_bytes;
    }
    // Per token and head 32 + 32 values and two scales; of 12 complete pages 2 x 32 bounds of two bytes.
    EXPECT_EQ(written, static_cast<uint64_t>(kKvHeads) * (kTokens * 66 + 12 * 128));
    return b;
  };
  const PagedBatch expected = run(1, Isa::kScalar, 1);
  for (int page = 0; page < 13; ++page) {
    std::vector<uint8_t> bytes(layout.page_bytes);
    std::memcpy(
        bytes.data(),
        expected.kv.base + static_cast<size_t>(expected.tables[0][static_cast<size_t>(page)]) * layout.page_bytes,
        bytes.size());
    std::vector<uint8_t> rewritten = bytes;
    if (page < 12) {
      WriteKeyBounds(layout, rewritten.data(), 0);
    } else {  // four tokens: no bounds yet
      std::memset(rewritten.data() + layout.KBoundsOffset(0, 0), 0xFF, kKvHeads * layout.HeadBoundsBytes());
    }
    EXPECT_EQ(bytes, rewritten) << "page " << page;
  }
  for (const Isa isa : SupportedIsas()) {
    for (const int chunk : {1, 7, 8, 33, 64}) {
      EXPECT_EQ(run(3, isa, chunk).memory, expected.memory) << IsaName(isa) << " in chunks of " << chunk;
    }
  }
}

TEST(PageSelection, TrafficIsTheSelectedPagesAndTheBoundsLookedAt) {
  const PageLayout layout = PageLayout::Create(16, 1, 2, 64, KvFormat::kE4M3, KvFormat::kE4M3, true);
  constexpr uint64_t kToken = 2 * (64 + 64 + 2), kBounds = 2 * 256;
  Random random(2);
  const auto read = [&](const AttentionShape& shape, const std::vector<testing::SequenceShape>& sequences) {
    PagedBatch b = MakeBatch(layout, sequences, 1);
    FillPages(&b, 1);
    const std::vector<float> q = random.Normals(QueryFloats(shape, b));
    ReferenceOps reference;
    Traffic fast, plain;
    Attend(MakeOps(2, SupportedIsas()[0], shape).get(), shape, b, q, &fast);
    Attend(&reference, shape, b, q, &plain);
    EXPECT_EQ(fast.kv_read_bytes, plain.kv_read_bytes);
    return fast.kv_read_bytes;
  };
  const AttentionShape dense{18, 2, 64, 0.1f};  // nine heads of a group: two items
  AttentionShape shape = dense;
  EXPECT_EQ(read(dense, {{300, 1}, {20, 0}, {0, 17}}), kToken * (301 + 17));
  shape.top_pages = 1;  // its own page, 13 tokens, no bounds
  EXPECT_EQ(read(shape, {{300, 1}}), kToken * 13);
  shape.top_pages = 4;  // 18 other pages compete for three places
  EXPECT_EQ(read(shape, {{300, 1}}), kToken * (3 * 16 + 13) + kBounds * 18);
  shape.top_pages = 19;
  EXPECT_EQ(read(shape, {{300, 1}}), kToken * 301);
  shape = dense;
  shape.window = 40;
  shape.sinks = 5;
  EXPECT_EQ(read(shape, {{300, 1}}), kToken * 45);
  EXPECT_EQ(read(shape, {{300, 9}}), kToken * 53);
  EXPECT_EQ(read(shape, {{30, 1}}), kToken * 31);
  EXPECT_EQ(read(shape, {{41, 3}}), kToken * (42 + 2)) << "sinks and window touch";
}

}  // namespace
}  // namespace dunlin::kernels::cpu
