// Head norms, RoPE and the append against the scalar definitions: the arena is compared byte for byte with
// AppendToken's work on the same floats, so that whatever nobody should touch is compared too.
#include "kernels/cuda/append.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::Random;
using testing::DeviceTest;

constexpr int kLayers = 2;
constexpr int kLayer = 1;
constexpr int kPages = 12;
constexpr int kMaxPosition = 100;
constexpr uint32_t kSaturatedBefore = 5;
constexpr float kEps = 1e-5f;
constexpr double kHalfUlp = 0x1p-24;

enum class Inputs { kNormal, kAwkward };  // awkward: not finite, tiny, huge, zero

struct AppendCase {
  std::string name;
  int q_heads, kv_heads, dim, page_tokens;
  KvFormat k_format, v_format;
  int rope_dims = 0;
  RopePairing pairing = RopePairing::kAdjacent;
  bool norms = false;
  bool centre = false;
  bool feedback = false;
  Inputs inputs = Inputs::kNormal;
};

// Three sequences over shuffled pages; row 4 ends one page, row 5 begins the next.
struct Rows {
  std::vector<DeviceSequence> sequences;
  std::vector<int32_t> positions, row_sequence, pages;
  int num_rows = 0;
};
Rows MakeRows(int page_tokens, Random* random) {
  Rows rows;
  std::vector<int32_t> ids(kPages);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random->engine());
  const int contexts[] = {0, page_tokens - 2, 2 * page_tokens + 3}, counts[] = {3, 5, 1};
  for (int s = 0; s < 3; ++s) {
    rows.sequences.push_back({rows.num_rows, counts[s], contexts[s], static_cast<int32_t>(rows.pages.size())});
    for (int i = 0; i < counts[s]; ++i) {
      rows.positions.push_back(contexts[s] + i);
      rows.row_sequence.push_back(s);
    }
    rows.num_rows += counts[s];
    const int pages = (contexts[s] + counts[s] + page_tokens - 1) / page_tokens;
    for (int p = 0; p < pages; ++p) {
      rows.pages.push_back(ids.back());
      ids.pop_back();
    }
  }
  return rows;
}

// One of K and V, as the host has it.
struct HostRounding {
  std::vector<float> centre, feedback;
  std::vector<uint16_t> order;
  KvVectorRounding view() const {
    return {centre.empty() ? nullptr : centre.data(), order.empty() ? nullptr : order.data(),
            feedback.empty() ? nullptr : feedback.data()};
  }
};
HostRounding MakeRounding(const AppendCase& c, Random* random) {
  HostRounding r;
  const auto dim = static_cast<size_t>(c.dim);
  if (c.centre) r.centre = random->Normals(static_cast<size_t>(c.kv_heads) * dim);
  if (!c.feedback) return r;
  for (int h = 0; h < c.kv_heads; ++h) {
    // A' A of few rows: channels that hang together strongly. Of the first head none: feedback of nothing but zeros.
    const size_t factors = h == 0 ? 0 : dim / 4;
    const std::vector<float> a = random->Normals(factors * dim);
    std::vector<double> metric(dim * dim, 0.0);
    for (size_t f = 0; f < factors; ++f) {
      for (size_t i = 0; i < dim; ++i) {
        for (size_t j = 0; j < dim; ++j) metric[i * dim + j] += double{a[f * dim + i]} * double{a[f * dim + j]};
      }
    }
    for (size_t i = 0; i < dim; ++i) metric[i * dim + i] += h == 0 ? 1.0 : 0.0;
    std::vector<uint16_t> order(dim);
    std::iota(order.begin(), order.end(), uint16_t{0});
    std::shuffle(order.begin(), order.end(), random->engine());
    std::vector<float> feedback(KvFeedbackValues(c.dim));
    EXPECT_TRUE(MakeKvFeedback(metric, c.dim, 0.05, order, feedback));
    r.order.insert(r.order.end(), order.begin(), order.end());
    r.feedback.insert(r.feedback.end(), feedback.begin(), feedback.end());
  }
  return r;
}

// NormHead's operations in its order: a lane has the dims 4 l … 4 l + 3 of every 128, then a butterfly.
void NormInOrder(const float* weight, float eps, int dim, float* x) {
  float sums[32] = {};
  for (int base = 0; base < dim; base += 128) {
    for (int d = base; d < std::min(base + 128, dim); ++d) {
      sums[(d - base) / 4] = std::fma(x[d], x[d], sums[(d - base) / 4]);
    }
  }
  for (int mask = 16; mask > 0; mask /= 2) {
    float next[32];
    for (int l = 0; l < 32; ++l) next[l] = sums[l] + sums[l ^ mask];
    std::copy(next, next + 32, sums);
  }
  const float inverse = 1.0f / std::sqrt(sums[0] / static_cast<float>(dim) + eps);
  for (int d = 0; d < dim; ++d) x[d] = x[d] * inverse * weight[d];
}

// The exact result of norm and rotation, and for each value the sum of magnitudes that its rounding errors scale with.
struct ExactHead {
  std::vector<double> value, magnitude;
};
ExactHead FinishExactly(const float* weight, float eps, const RopeTable& rope, int position, int dim, const float* x) {
  ExactHead e{std::vector<double>(x, x + dim), {}};
  if (weight != nullptr) {
    double sum = 0.0;
    for (int d = 0; d < dim; ++d) sum += e.value[static_cast<size_t>(d)] * e.value[static_cast<size_t>(d)];
    const double inverse = 1.0 / std::sqrt(sum / dim + double{eps});
    for (int d = 0; d < dim; ++d) e.value[static_cast<size_t>(d)] *= inverse * double{weight[d]};
  }
  for (const double v : e.value) e.magnitude.push_back(std::fabs(v));
  const int half = rope.dims / 2;
  for (int i = 0; i < half; ++i) {
    const bool adjacent = rope.pairing == RopePairing::kAdjacent;
    const auto a = static_cast<size_t>(adjacent ? 2 * i : i), b = static_cast<size_t>(adjacent ? 2 * i + 1 : i + half);
    const double cos = double{rope.cos[position * half + i]}, sin = double{rope.sin[position * half + i]};
    const double p = e.value[a], q = e.value[b];
    e.value[a] = p * cos - q * sin;
    e.value[b] = p * sin + q * cos;
    e.magnitude[a] = std::fabs(p * cos) + std::fabs(q * sin);
    e.magnitude[b] = std::fabs(p * sin) + std::fabs(q * cos);
  }
  return e;
}

// Values that rounding has to be careful with, each kind in a head of its own.
void MakeAwkward(int dim, std::vector<float>* x) {
  const float inf = std::numeric_limits<float>::infinity(), max = std::numeric_limits<float>::max();
  float payload;
  const uint32_t bits = 0xFFC12345u;
  std::memcpy(&payload, &bits, sizeof payload);
  const float inserted[][3] = {{std::nanf(""), 1.0f, payload}, {inf, -inf, 2.0f},       {max, -max, 1.0f},
                               {-0.0f, 65519.9f, -65520.0f},   {0x1p-14f, 6e-8f, 0.0f}, {1e-42f, inf, -1.0f},
                               {448.0f, -447.0f, 0.0f}};
  const float scales[] = {1.0f, 1.0f, 1.0f, 0.0f, 1e-42f, 1e-4f, 1e-38f, 1e30f};
  for (size_t head = 0; head < x->size() / static_cast<size_t>(dim); ++head) {
    float* values = x->data() + head * static_cast<size_t>(dim);
    for (int d = 0; d < dim; ++d) values[d] = scales[head % 8] != 0.0f ? values[d] * scales[head % 8] : -0.0f;
    if (head % 5 >= 3) continue;
    for (int i = 0; i < 3; ++i) values[(i * 7 + static_cast<int>(head)) % dim] = inserted[head % 7][i];
  }
}

// Everything that a step brings, on the host; padding rows have indices that no array has.
struct Step {
  Rows rows;
  int max_rows;
  PageLayout layout;
  std::vector<float> q, k, v, q_norm, k_norm, cos, sin;
  std::vector<uint8_t> arena;
  HostRounding k_rounding, v_rounding;
  RopeTable rope;
};
Step MakeStep(const AppendCase& c) {
  Random random(17);
  Step s;
  s.rows = MakeRows(c.page_tokens, &random);
  s.max_rows = s.rows.num_rows + 6;
  s.layout = PageLayout::Create(c.page_tokens, kLayers, c.kv_heads, c.dim, c.k_format, c.v_format,
                                /*key_bounds=*/false, SlabOrder::kDevice);
  const auto values = [&](int heads) { return static_cast<size_t>(s.max_rows * heads * c.dim); };
  s.q = random.Normals(values(c.q_heads));
  s.k = random.Normals(values(c.kv_heads), 3.0f);
  s.v = random.Normals(values(c.kv_heads), 0.3f);
  if (c.inputs == Inputs::kAwkward) {
    MakeAwkward(c.dim, &s.k);
    MakeAwkward(c.dim, &s.v);
  }
  s.q_norm = random.Normals(static_cast<size_t>(c.dim));
  s.k_norm = random.Normals(static_cast<size_t>(c.dim));
  for (int i = 0; i < kMaxPosition * c.rope_dims / 2; ++i) {
    const double angle = 6.3 * random.Uniform();
    s.cos.push_back(static_cast<float>(1.1 * std::cos(angle)));  // with an attention factor
    s.sin.push_back(static_cast<float>(1.1 * std::sin(angle)));
  }
  s.rope = {s.cos.data(), s.sin.data(), c.rope_dims, c.pairing};
  s.k_rounding = MakeRounding(c, &random);
  s.v_rounding = MakeRounding(c, &random);
  s.arena.resize(kPages * s.layout.page_bytes);
  for (uint8_t& b : s.arena) b = random.Byte();
  s.rows.positions.resize(static_cast<size_t>(s.max_rows), 1 << 30);
  s.rows.row_sequence.resize(static_cast<size_t>(s.max_rows), 1 << 28);
  return s;
}

// What a step leaves.
struct Result {
  std::vector<float> q;
  std::vector<uint8_t> arena;
  uint32_t saturated;
};
Result Define(const AppendCase& c, const Step& s) {
  Result result{s.q, s.arena, kSaturatedBefore};
  std::vector<float> k = s.k;
  const auto dim = static_cast<size_t>(c.dim);
  const auto finish = [&](const std::vector<float>& norm, int position, int heads, float* row) {
    for (float* head = row; head != row + static_cast<size_t>(heads) * dim; head += dim) {
      if (c.norms) NormInOrder(norm.data(), kEps, c.dim, head);
      ApplyRope(s.rope, position, head);
    }
  };
  for (size_t r = 0; r < static_cast<size_t>(s.rows.num_rows); ++r) {
    const int position = s.rows.positions[r];
    const size_t q_at = r * static_cast<size_t>(c.q_heads) * dim, kv_at = r * static_cast<size_t>(c.kv_heads) * dim;
    finish(s.q_norm, position, c.q_heads, &result.q[q_at]);
    finish(s.k_norm, position, c.kv_heads, &k[kv_at]);
    const DeviceSequence& sequence = s.rows.sequences[static_cast<size_t>(s.rows.row_sequence[r])];
    const auto page =
        static_cast<size_t>(s.rows.pages[static_cast<size_t>(sequence.first_page + position / c.page_tokens)]);
    result.saturated += static_cast<uint32_t>(AppendToken(s.layout, result.arena.data() + page * s.layout.page_bytes,
                                                          kLayer, position % c.page_tokens, &k[kv_at], &s.v[kv_at],
                                                          {s.k_rounding.view(), s.v_rounding.view()}));
  }
  return result;
}

class AppendTest : public DeviceTest, public ::testing::WithParamInterface<AppendCase> {
 protected:
  struct OnDevice {
    DeviceBuffer<float> centre, feedback;
    DeviceBuffer<uint16_t> order;
    KvVectorRounding view;
  };
  OnDevice UploadRounding(const HostRounding& r) {
    OnDevice d{Upload(r.centre), Upload(r.feedback), Upload(r.order), {}};
    d.view = {r.centre.empty() ? nullptr : d.centre.data(), r.order.empty() ? nullptr : d.order.data(),
              r.feedback.empty() ? nullptr : d.feedback.data()};
    return d;
  }
  Result Run(const AppendCase& c, const Step& s) {
    const auto counts = Upload(std::vector<BatchCounts>{{s.rows.num_rows, 3, 0, 0}});
    const auto positions = Upload(s.rows.positions), row_sequence = Upload(s.rows.row_sequence);
    const auto pages = Upload(s.rows.pages);
    const auto sequences = Upload(s.rows.sequences);
    const auto q = Upload(s.q), k = Upload(s.k), v = Upload(s.v);
    const auto q_norm = Upload(s.q_norm), k_norm = Upload(s.k_norm), cos = Upload(s.cos), sin = Upload(s.sin);
    const auto arena = Upload(s.arena);
    const auto saturated = Upload(std::vector<uint32_t>{kSaturatedBefore});
    const OnDevice k_rounding = UploadRounding(s.k_rounding), v_rounding = UploadRounding(s.v_rounding);
    AppendArgs args;
    args.shape.num_q_heads = c.q_heads;
    args.shape.num_kv_heads = c.kv_heads;
    args.shape.head_dim = c.dim;
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    args.q_norm = c.norms ? q_norm.data() : nullptr;
    args.k_norm = c.norms ? k_norm.data() : nullptr;
    args.eps = kEps;
    args.rope = {cos.data(), sin.data(), c.rope_dims, c.pairing};
    args.rounding = {k_rounding.view, v_rounding.view};
    args.layer = kLayer;
    args.saturated = saturated.data();
    DeviceBatch batch;
    batch.max_rows = s.max_rows;
    batch.max_sequences = 3;
    batch.counts = counts.data();
    batch.positions = positions.data();
    batch.row_sequence = row_sequence.data();
    batch.sequences = sequences.data();
    batch.pages = pages.data();
    RotateAndAppend(device_, args, batch, {arena.data(), s.layout});
    return {Download(q), Download(arena), Download(saturated)[0]};
  }
};

TEST_P(AppendTest, AsTheDefinitionsByteForByte) {
  const Step s = MakeStep(GetParam());
  const Result want = Define(GetParam(), s), got = Run(GetParam(), s);
  size_t different = 0;
  for (size_t i = 0; i < want.arena.size(); ++i) different += got.arena[i] != want.arena[i] ? 1 : 0;
  EXPECT_EQ(different, 0u) << "bytes of " << want.arena.size();
  EXPECT_EQ(got.saturated, want.saturated);
  EXPECT_EQ(std::memcmp(got.q.data(), want.q.data(), want.q.size() * sizeof(float)), 0);
}

// Norm: at most 16 fma and 5 additions to a sum of positive values, each half an ulp, halved by the root; division,
// eps, root, reciprocal and two products: under 17 half ulps. Rotation: two more of each product.
TEST_P(AppendTest, QueriesAreTheExactOnesWithinTheirRoundings) {
  AppendCase c = GetParam();
  c.feedback = false;  // which is dear to make, and no concern of queries
  const Step s = MakeStep(c);
  const Result got = Run(c, s);
  const auto dim = static_cast<size_t>(c.dim);
  for (int r = 0; r < s.rows.num_rows; ++r) {
    for (int h = 0; h < c.q_heads; ++h) {
      const size_t at = static_cast<size_t>(r * c.q_heads + h) * dim;
      const ExactHead e = FinishExactly(c.norms ? s.q_norm.data() : nullptr, kEps, s.rope,
                                        s.rows.positions[static_cast<size_t>(r)], c.dim, &s.q[at]);
      for (size_t d = 0; d < dim; ++d) {
        const double error = std::fabs(double{got.q[at + d]} - e.value[d]);
        ASSERT_TRUE(error <= 20 * kHalfUlp * e.magnitude[d]) << "row " << r << " head " << h << " dim " << d;
      }
    }
  }
}

constexpr KvFormat kE = KvFormat::kE4M3, kI = KvFormat::kInt8, kH = KvFormat::kF16;
constexpr RopePairing kA = RopePairing::kAdjacent, kP = RopePairing::kHalves;
INSTANTIATE_TEST_SUITE_P(
    Cases, AppendTest,
    ::testing::Values(
        // Neither norm nor rotation: what is stored is k and v themselves.
        AppendCase{"E4M3", 3, 3, 128, 16, kE, kE, 0, kA, false, false, false, Inputs::kAwkward},
        AppendCase{"Int8", 4, 2, 64, 16, kI, kI, 0, kA, false, false, false, Inputs::kAwkward},
        AppendCase{"Mixed", 3, 1, 48, 32, kI, kE, 0, kA, false, false, false, Inputs::kAwkward},
        AppendCase{"F16", 5, 5, 16, 32, kH, kH, 0, kA, false, true, true, Inputs::kAwkward},
        AppendCase{"F16AndE4M3", 2, 2, 80, 16, kH, kE, 0, kA, false, true, true, Inputs::kAwkward},
        AppendCase{"E4M3Centred", 3, 3, 128, 16, kE, kE, 0, kA, false, true, false, Inputs::kAwkward},
        AppendCase{"Int8Centred", 2, 2, 32, 16, kI, kI, 0, kA, false, true, false, Inputs::kAwkward},
        AppendCase{"E4M3Compensated", 3, 3, 128, 16, kE, kE, 0, kA, false, false, true, Inputs::kAwkward},
        AppendCase{"Int8Compensated", 3, 3, 96, 32, kI, kI, 0, kA, false, true, true, Inputs::kAwkward},
        AppendCase{"MixedCompensated", 6, 3, 16, 16, kI, kE, 0, kA, false, true, true, Inputs::kAwkward},
        AppendCase{"WideCompensated", 2, 2, 256, 16, kI, kE, 0, kA, false, false, true},
        AppendCase{"WidestCompensated", 2, 2, 512, 16, kE, kI, 0, kA, false, true, true},
        // What models have.
        AppendCase{"LlamaAdjacent", 6, 2, 128, 16, kE, kE, 128, kA},
        AppendCase{"QwenNormed", 6, 2, 128, 16, kI, kE, 128, kP, true, true, true},
        AppendCase{"Rope64", 3, 1, 64, 32, kE, kE, 64, kP},
        AppendCase{"PartlyRotated", 4, 2, 80, 16, kE, kI, 22, kP, true},
        AppendCase{"PartlyRotatedAdjacent", 4, 2, 96, 16, kH, kH, 50, kA, true},
        AppendCase{"Wide", 2, 1, 256, 16, kE, kE, 256, kP, true},
        AppendCase{"Widest", 2, 1, 400, 16, kI, kI, 400, kA, true},
        AppendCase{"Narrow", 7, 7, 16, 16, kI, kE, 16, kP, true, true, true}),
    [](const auto& param) { return param.param.name; });

using CopyPagesTest = DeviceTest;

TEST_F(CopyPagesTest, MovesWholePagesAndNothingElse) {
  Random random(3);
  struct Shape {
    int layers, heads, dim;
  };
  // The smallest page, one that is no whole number of a block's steps, and one of several blocks.
  for (const Shape& shape : {Shape{1, 1, 16}, Shape{5, 3, 80}, Shape{3, 8, 128}}) {
    const PageLayout layout = PageLayout::Create(16, shape.layers, shape.heads, shape.dim, KvFormat::kE4M3,
                                                 KvFormat::kInt8, false, SlabOrder::kDevice);
    std::vector<uint8_t> arena(9 * layout.page_bytes);
    for (uint8_t& b : arena) b = random.Byte();
    const std::vector<int32_t> from = {7, 2, 7}, to = {0, 8, 5};
    const auto d_arena = Upload(arena);
    const auto d_from = Upload(from), d_to = Upload(to);
    CopyPages(device_, {d_arena.data(), layout}, d_from.data(), d_to.data(), 3);
    CopyPages(device_, {d_arena.data(), layout}, d_from.data(), d_to.data(), 0);
    for (size_t i = 0; i < 3; ++i) {
      std::memcpy(&arena[static_cast<size_t>(to[i]) * layout.page_bytes],
                  &arena[static_cast<size_t>(from[i]) * layout.page_bytes], layout.page_bytes);
    }
    EXPECT_TRUE(Download(d_arena) == arena) << layout.page_bytes;
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
