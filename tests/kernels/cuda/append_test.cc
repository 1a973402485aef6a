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
    // A' A of few rows: channels that hang together strongly.
    const size_t factors = dim / 4;
    const std::vector<float> a = random->Normals(factors * dim);
    std::vector<double> metric(dim * dim, 0.0);
    for (size_t f = 0; f < factors; ++f) {
      for (size_t i = 0; i < dim; ++i) {
        for (size_t j = 0; j < dim; ++j) metric[i * dim + j] += double{a[f * dim + i]} * double{a[f * dim + j]};
      }
    }
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
                               {-0.0f, 65519.9f, -65520.0f},   {0x1p-14f, 6e-8f, 0.0f}, {1e-42f, inf, -1.0f}};
  const float scales[] = {1.0f, 1.0f, 1.0f, 1e-4f, 1e-42f, 0.0f, 1e-38f, 1e30f};
  for (size_t head = 0; head < x->size() / static_cast<size_t>(dim); ++head) {
    float* values = x->data() + head * static_cast<size_t>(dim);
    for (int d = 0; d < dim; ++d) values[d] *= scales[head % 8];
    if (head % 3 == 2) continue;
    for (int i = 0; i < 3; ++i) values[(i * 7 + static_cast<int>(head)) % dim] = inserted[head % 6][i];
  }
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
};

TEST_P(AppendTest, AsTheDefinitionsByteForByte) {
  const AppendCase& c = GetParam();
  Random random(17);
  const PageLayout layout = PageLayout::Create(c.page_tokens, kLayers, c.kv_heads, c.dim, c.k_format, c.v_format,
                                               /*key_bounds=*/false, SlabOrder::kDevice);
  Rows rows = MakeRows(c.page_tokens, &random);
  const int max_rows = rows.num_rows + 6;
  const auto dim = static_cast<size_t>(c.dim);
  const size_t q_width = static_cast<size_t>(c.q_heads) * dim, kv_width = static_cast<size_t>(c.kv_heads) * dim;
  std::vector<float> q = random.Normals(static_cast<size_t>(max_rows) * q_width);
  std::vector<float> k = random.Normals(static_cast<size_t>(max_rows) * kv_width, 3.0f);
  std::vector<float> v = random.Normals(static_cast<size_t>(max_rows) * kv_width, 0.3f);
  if (c.inputs == Inputs::kAwkward) {
    MakeAwkward(c.dim, &k);
    MakeAwkward(c.dim, &v);
  }
  const std::vector<float> q_norm = random.Normals(dim), k_norm = random.Normals(dim);
  const size_t turns = static_cast<size_t>(kMaxPosition * c.rope_dims / 2);
  std::vector<float> cos(turns), sin(turns);
  for (size_t i = 0; i < turns; ++i) {
    const double angle = 6.3 * random.Uniform();
    cos[i] = static_cast<float>(1.1 * std::cos(angle));  // with an attention factor
    sin[i] = static_cast<float>(1.1 * std::sin(angle));
  }
  const float eps = 1e-5f;
  const HostRounding k_rounding = MakeRounding(c, &random), v_rounding = MakeRounding(c, &random);
  std::vector<uint8_t> arena(kPages * layout.page_bytes);
  for (uint8_t& b : arena) b = random.Byte();

  // On the device. Padding rows have indices that no array has.
  std::vector<int32_t> positions = rows.positions, row_sequence = rows.row_sequence;
  positions.resize(static_cast<size_t>(max_rows), 1 << 30);
  row_sequence.resize(static_cast<size_t>(max_rows), 1 << 28);
  const auto d_counts = Upload(std::vector<BatchCounts>{{rows.num_rows, 3, 0, 0}});
  const auto d_positions = Upload(positions), d_row_sequence = Upload(row_sequence), d_pages = Upload(rows.pages);
  const auto d_sequences = Upload(rows.sequences);
  const auto d_q = Upload(q), d_k = Upload(k), d_v = Upload(v), d_q_norm = Upload(q_norm), d_k_norm = Upload(k_norm);
  const auto d_cos = Upload(cos), d_sin = Upload(sin);
  const auto d_arena = Upload(arena);
  const auto d_saturated = Upload(std::vector<uint32_t>{kSaturatedBefore});
  const OnDevice d_k_rounding = UploadRounding(k_rounding), d_v_rounding = UploadRounding(v_rounding);
  AppendArgs args;
  args.shape.num_q_heads = c.q_heads;
  args.shape.num_kv_heads = c.kv_heads;
  args.shape.head_dim = c.dim;
  args.q = d_q.data();
  args.k = d_k.data();
  args.v = d_v.data();
  args.q_norm = c.norms ? d_q_norm.data() : nullptr;
  args.k_norm = c.norms ? d_k_norm.data() : nullptr;
  args.eps = eps;
  args.rope = {d_cos.data(), d_sin.data(), c.rope_dims, c.pairing};
  args.rounding = {d_k_rounding.view, d_v_rounding.view};
  args.layer = kLayer;
  args.saturated = d_saturated.data();
  DeviceBatch batch;
  batch.max_rows = max_rows;
  batch.max_sequences = 3;
  batch.counts = d_counts.data();
  batch.positions = d_positions.data();
  batch.row_sequence = d_row_sequence.data();
  batch.sequences = d_sequences.data();
  batch.pages = d_pages.data();
  RotateAndAppend(device_, args, batch, {d_arena.data(), layout});

  // As defined.
  const RopeTable rope{cos.data(), sin.data(), c.rope_dims, c.pairing};
  const std::vector<float> q_before = q;
  const auto finish = [&](const std::vector<float>& norm, int position, float* head) {
    if (c.norms) NormInOrder(norm.data(), eps, c.dim, head);
    ApplyRope(rope, position, head);
  };
  uint32_t saturated = kSaturatedBefore;
  for (int r = 0; r < rows.num_rows; ++r) {
    const auto row = static_cast<size_t>(r);
    const int position = rows.positions[row];
    for (size_t h = 0; h < static_cast<size_t>(c.q_heads); ++h) finish(q_norm, position, &q[row * q_width + h * dim]);
    for (size_t h = 0; h < static_cast<size_t>(c.kv_heads); ++h) finish(k_norm, position, &k[row * kv_width + h * dim]);
    const DeviceSequence& s = rows.sequences[static_cast<size_t>(rows.row_sequence[row])];
    const auto page = static_cast<size_t>(rows.pages[static_cast<size_t>(s.first_page + position / c.page_tokens)]);
    saturated += static_cast<uint32_t>(AppendToken(layout, arena.data() + page * layout.page_bytes, kLayer,
                                                   position % c.page_tokens, &k[row * kv_width], &v[row * kv_width],
                                                   {k_rounding.view(), v_rounding.view()}));
  }
  const std::vector<uint8_t> got_arena = Download(d_arena);
  size_t different = 0;
  for (size_t i = 0; i < arena.size(); ++i) different += got_arena[i] != arena[i] ? 1 : 0;
  EXPECT_EQ(different, 0u) << "bytes of " << arena.size();
  EXPECT_EQ(Download(d_saturated)[0], saturated);
  const std::vector<float> got_q = Download(d_q);
  EXPECT_EQ(std::memcmp(got_q.data(), q.data(), q.size() * sizeof(float)), 0);

  // Against fp64. Norm: at most 16 fma and 5 additions to a sum of positive values, each half an ulp, halved by the
  // root; division, eps, root, reciprocal and two products: under 17 half ulps. Rotation: two more of each product.
  for (int r = 0; r < rows.num_rows; ++r) {
    for (int h = 0; h < c.q_heads; ++h) {
      const size_t at = static_cast<size_t>(r) * q_width + static_cast<size_t>(h) * dim;
      const ExactHead e = FinishExactly(c.norms ? q_norm.data() : nullptr, eps, rope,
                                        rows.positions[static_cast<size_t>(r)], c.dim, &q_before[at]);
      for (size_t d = 0; d < dim; ++d) {
        const double error = std::fabs(double{got_q[at + d]} - e.value[d]);
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
        AppendCase{"WideCompensated", 1, 1, 256, 16, kI, kE, 0, kA, false, false, true},
        AppendCase{"WidestCompensated", 1, 1, 512, 16, kE, kI, 0, kA, false, true, true},
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
