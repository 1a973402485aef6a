// Prepared rows against a plain definition, bit for bit, and their norm against fp64.
#include "kernels/cuda/prepare.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant_format.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::Random;
using testing::DeviceTest;

constexpr float kEps = 1e-5f;

// The norm in the kernel's order: of 512 threads each has every 512th four of columns; butterflies of 32; 16 warps.
std::vector<float> NormInOrder(const float* x, const std::vector<float>& norm) {
  const int cols = static_cast<int>(norm.size());
  std::vector<float> sums(512, 0.0f);
  for (int c = 0; c < cols; ++c) {
    float& sum = sums[static_cast<size_t>(c / 4 % 512)];
    sum = std::fma(x[c], x[c], sum);
  }
  for (size_t mask = 16; mask > 0; mask /= 2) {
    std::vector<float> next(512);
    for (size_t t = 0; t < 512; ++t) next[t] = sums[t] + sums[t ^ mask];
    sums = next;
  }
  float all = 0.0f;
  for (size_t w = 0; w < 16; ++w) all += sums[32 * w];
  const float inverse = 1.0f / std::sqrt(all / static_cast<float>(cols) + kEps);
  std::vector<float> h(norm.size());
  for (int c = 0; c < cols; ++c) h[static_cast<size_t>(c)] = x[c] * inverse * norm[static_cast<size_t>(c)];
  return h;
}

// One row as activations.h has it.
struct CodeRow {
  std::vector<int8_t> codes;
  std::vector<BlockScale> scales;
};
CodeRow DefineCodes(const std::vector<float>& h) {
  const auto stride = static_cast<size_t>(PreparedStride(static_cast<int>(h.size())));
  CodeRow row{std::vector<int8_t>(stride, 0), std::vector<BlockScale>(stride / kBlockColumns, BlockScale{0.0f, 0, 0})};
  for (size_t block = 0; block * kBlockColumns < h.size(); ++block) {
    const size_t first = block * kBlockColumns, end = std::min(h.size(), first + kBlockColumns);
    float amax = 0.0f;
    for (size_t c = first; c < end; ++c) amax = std::fabs(h[c]) > amax ? std::fabs(h[c]) : amax;
    BlockScale& s = row.scales[block];
    s.scale = amax / 127.0f;
    if (s.scale == 0.0f) s.scale = 1.0f;
    for (size_t c = first; c < end; ++c) {
      const float q = std::nearbyint(h[c] / s.scale);
      const int code = std::isnan(q) ? 0 : static_cast<int>(std::clamp(q, -127.0f, 127.0f));
      const auto within = static_cast<int>(c - first);
      row.codes[first + static_cast<size_t>(CodePlace(within))] = static_cast<int8_t>(code);
      int16_t& sum = within < 16 ? s.low_sum : s.high_sum;
      sum = static_cast<int16_t>(sum + code);
    }
  }
  return row;
}

struct HalfRow {
  std::vector<uint16_t> halves;
  float scale = 1.0f;
};
HalfRow DefineHalves(const std::vector<float>& h) {
  HalfRow row{std::vector<uint16_t>(static_cast<size_t>(PreparedStride(static_cast<int>(h.size()))), 0)};
  float amax = 0.0f;
  for (const float x : h) amax = std::fabs(x) > amax ? std::fabs(x) : amax;
  int e = 0;
  while (e < 114 && !(std::ldexp(double{amax}, -e) <= 0x1p14)) ++e;
  row.scale = std::ldexp(1.0f, e);
  for (size_t c = 0; c < h.size(); ++c) row.halves[c] = FloatToHalf(h[c] * std::ldexp(1.0f, -e));
  return row;
}

bool IsNanHalf(uint16_t bits) { return (bits & 0x7FFF) > 0x7C00; }

class PrepareTest : public DeviceTest {
 protected:
  struct Got {
    std::vector<int8_t> codes;
    std::vector<BlockScale> scales;
    std::vector<uint16_t> halves;
    std::vector<float> row_scale;
  };
  // Both forms of `max_rows` rows, of which `num_rows` count (-1: no count on the device), poisoned before.
  Got Run(const std::vector<float>& x, int cols, const std::vector<float>& norm, const std::vector<int32_t>& rows,
          int max_rows, int num_rows) {
    const auto d_x = Upload(x), d_norm = Upload(norm);
    const auto d_rows = Upload(rows);
    const auto d_num_rows = Upload(std::vector<int32_t>{num_rows});
    RowsToPrepare from;
    from.x = d_x.data();
    from.rows = rows.empty() ? nullptr : d_rows.data();
    from.num_rows = num_rows < 0 ? nullptr : d_num_rows.data();
    from.norm = norm.empty() ? nullptr : d_norm.data();
    from.eps = kEps;
    PreparedBuffer code_buffer(device_, max_rows, cols), half_buffer(device_, max_rows, cols);
    const PreparedRows codes = code_buffer.Codes(max_rows, cols), halves = half_buffer.Halves(max_rows, cols);
    const size_t values = static_cast<size_t>(max_rows) * static_cast<size_t>(codes.stride);
    device_->Fill(codes.codes, 0x55, values);
    device_->Fill(codes.scales, 0x55, values / kBlockColumns * sizeof(BlockScale));
    device_->Fill(halves.halves, 0x55, 2 * values);
    device_->Fill(halves.row_scale, 0x55, static_cast<size_t>(max_rows) * sizeof(float));
    Prepare(device_, from, codes);
    Prepare(device_, from, halves);
    return {Download(codes.codes, values), Download(codes.scales, values / kBlockColumns),
            Download(halves.halves, values), Download(halves.row_scale, static_cast<size_t>(max_rows))};
  }

  // Row i of what Run gave against the definition of h.
  static void ExpectRow(const Got& got, int i, const std::vector<float>& h) {
    const CodeRow codes = DefineCodes(h);
    const HalfRow halves = DefineHalves(h);
    const auto row = static_cast<size_t>(i);
    const size_t stride = codes.codes.size(), blocks = codes.scales.size();
    for (size_t c = 0; c < stride; ++c) {
      ASSERT_EQ(got.codes[row * stride + c], codes.codes[c]) << "row " << i << " code " << c << " of " << h.size();
      const uint16_t half = got.halves[row * stride + c];
      if (IsNanHalf(halves.halves[c])) {
        ASSERT_TRUE(IsNanHalf(half)) << "row " << i << " half " << c;
      } else {
        ASSERT_EQ(half, halves.halves[c]) << "row " << i << " half " << c << " of " << h.size();
      }
    }
    for (size_t b = 0; b < blocks; ++b) {
      const BlockScale& s = got.scales[row * blocks + b];
      ASSERT_EQ(std::memcmp(&s, &codes.scales[b], sizeof s), 0)
          << "row " << i << " block " << b << " of " << h.size() << ": " << s.scale << ' ' << s.low_sum << ' '
          << s.high_sum << ", not " << codes.scales[b].scale << ' ' << codes.scales[b].low_sum << ' '
          << codes.scales[b].high_sum;
    }
    ASSERT_EQ(got.row_scale[row], halves.scale) << "row " << i;
  }
  static void ExpectUntouched(const Got& got, int first, int max_rows) {
    const size_t stride = got.codes.size() / static_cast<size_t>(max_rows);
    const size_t values = static_cast<size_t>(first) * stride;
    EXPECT_TRUE(std::all_of(got.codes.begin() + static_cast<std::ptrdiff_t>(values), got.codes.end(),
                            [](int8_t c) { return c == 0x55; }));
    EXPECT_TRUE(std::all_of(got.halves.begin() + static_cast<std::ptrdiff_t>(values), got.halves.end(),
                            [](uint16_t h) { return h == 0x5555; }));
    for (size_t b = values / kBlockColumns; b < got.scales.size(); ++b) EXPECT_EQ(got.scales[b].low_sum, 0x5555);
    for (size_t r = static_cast<size_t>(first); r < got.row_scale.size(); ++r) {
      EXPECT_GT(got.row_scale[r], 1e13f);  // 0x55555555
    }
  }
};

std::vector<float> RowOf(const std::vector<float>& x, int row, int cols) {
  const auto begin = x.begin() + static_cast<std::ptrdiff_t>(row) * cols;
  return {begin, begin + cols};
}

// Around a four, a block, the stride, what threads hold, and past it.
constexpr int kColumns[] = {1, 3, 31, 32, 33, 64, 127, 128, 132, 1000, 2048, 4099, 8192, 8196, 11008, 9001};

TEST_F(PrepareTest, WithoutNormAsDefined) {
  Random random(5);
  for (const int cols : kColumns) {
    const std::vector<float> x = random.Normals(static_cast<size_t>(cols) * 3, 2.0f);
    const Got got = Run(x, cols, {}, {}, 3, -1);
    for (int r = 0; r < 3; ++r) ExpectRow(got, r, RowOf(x, r, cols));
  }
}

TEST_F(PrepareTest, WithNormAsDefinedInTheKernelsOrder) {
  Random random(6);
  for (const int cols : kColumns) {
    const std::vector<float> x = random.Normals(static_cast<size_t>(cols) * 2, 5.0f);
    const std::vector<float> norm = random.Normals(static_cast<size_t>(cols));
    const Got got = Run(x, cols, norm, {}, 2, -1);
    for (int r = 0; r < 2; ++r) ExpectRow(got, r, NormInOrder(&x[static_cast<size_t>(r * cols)], norm));
  }
}

TEST_F(PrepareTest, GathersRowsAndLeavesPaddingAlone) {
  Random random(7);
  const int cols = 160;
  const std::vector<float> x = random.Normals(static_cast<size_t>(cols) * 9);
  const std::vector<float> norm = random.Normals(static_cast<size_t>(cols));
  const std::vector<int32_t> rows = {8, 0, 8, 3, 1 << 28, 1 << 28};  // padding: indices that x has not
  for (const int num_rows : {0, 1, 4}) {
    const Got got = Run(x, cols, norm, rows, 6, num_rows);
    for (int i = 0; i < num_rows; ++i) {
      ExpectRow(got, i, NormInOrder(&x[static_cast<size_t>(rows[static_cast<size_t>(i)] * cols)], norm));
    }
    ExpectUntouched(got, num_rows, 6);
  }
}

TEST_F(PrepareTest, AwkwardValuesAsDefined) {
  const float inf = std::numeric_limits<float>::infinity(), max = std::numeric_limits<float>::max();
  const int cols = 200;
  Random random(8);
  const float values[] = {0.0f,     1e-42f, 1e-40f, 1e-30f, 16384.0f, std::nextafter(16384.0f, inf),
                          32768.0f, 1e9f,   max,    inf,    -inf,     std::nanf(""),
                          -0.0f,    5e-8f};
  const int num_rows = static_cast<int>(std::size(values));
  std::vector<float> x = random.Normals(static_cast<size_t>(num_rows * cols), 0.5f);
  for (int r = 0; r < num_rows; ++r) {
    float* row = &x[static_cast<size_t>(r * cols)];
    row[70] = values[r];
    std::fill(row + 96, row + 128, 0.0f);
    row[100] = values[r];  // alone in its block
    // Ties of the rounding: halves of the unit.
    row[32] = 127.0f;
    for (int c = 33; c < 64; ++c) row[c] = static_cast<float>(c - 48) + 0.5f;
  }
  const Got got = Run(x, cols, {}, {}, num_rows, -1);
  for (int r = 0; r < num_rows; ++r) ExpectRow(got, r, RowOf(x, r, cols));
}

// Per column: the sum of squares of each thread's n = 4 * ceil(cols / 2048) values by fma, 5 additions of the
// butterfly, 16 of the warps, all of positive values: n + 21 half ulps, halved by the root; division, eps, root,
// reciprocal and two products: 5 more. Halves add their own half ulp, 2^-11, or 2^-25 below 2^-14.
TEST_F(PrepareTest, NormIsTheExactOneWithinItsRoundings) {
  Random random(9);
  for (const int cols : {64, 4096, 9001}) {
    const std::vector<float> x = random.Normals(static_cast<size_t>(cols), 30.0f);
    const std::vector<float> norm = random.Normals(static_cast<size_t>(cols));
    const Got got = Run(x, cols, norm, {}, 1, -1);
    double sum = 0.0;
    for (const float v : x) sum += double{v} * double{v};
    const double inverse = 1.0 / std::sqrt(sum / cols + double{kEps});
    const double relative = ((4.0 * ((cols + 2047) / 2048) + 21) / 2 + 6) * 0x1p-24;
    for (size_t c = 0; c < x.size(); ++c) {
      const double want = double{x[c]} * inverse * double{norm[c]};
      const double half = double{HalfToFloat(got.halves[c])} * double{got.row_scale[0]};
      const double half_tolerance = std::fabs(want) * (relative + 0x1.01p-11) + 0x1p-25 * double{got.row_scale[0]};
      ASSERT_TRUE(std::fabs(half - want) <= half_tolerance) << cols << ' ' << c << ": " << half << ' ' << want;
      const size_t block = c / kBlockColumns;
      const double scale = double{got.scales[block].scale};
      const int8_t code =
          got.codes[block * kBlockColumns + static_cast<size_t>(CodePlace(static_cast<int>(c) % kBlockColumns))];
      ASSERT_TRUE(std::fabs(code * scale - want) <= scale * 0.50001 + std::fabs(want) * relative) << cols << ' ' << c;
    }
  }
}

TEST_F(PrepareTest, EmbedsTheTablesValuesOfEveryType) {
  Random random(10);
  for (const DType type : kernels::testing::kAllTypes) {
    // Not whole tiles of rows; columns past what a block of threads takes, for plain types not whole fours.
    const bool plain = type == DType::kF32 || type == DType::kF16 || type == DType::kBF16;
    const int table_rows = 21, cols = plain ? 1031 : 1280;
    WeightArena arena(device_);
    CudaMatrix table;
    const std::vector<uint8_t> bytes = kernels::testing::RandomWeights(type, int64_t{table_rows} * cols, &random);
    ASSERT_TRUE(PackMatrix(type, table_rows, cols, bytes, &arena, &table));
    const std::vector<uint8_t> packed = Download(table.data, table.bytes);
    const std::vector<int32_t> ids = {20, 0, 7, 7, 1 << 28};
    const auto d_ids = Upload(ids);
    const auto d_counts = Upload(std::vector<BatchCounts>{{4, 1, 0, 0}});
    const auto d_x = Upload(std::vector<float>(ids.size() * static_cast<size_t>(cols), -7.0f));
    DeviceBatch batch;
    batch.max_rows = static_cast<int32_t>(ids.size());
    batch.counts = d_counts.data();
    batch.token_ids = d_ids.data();
    Embed(device_, table, batch, 3.3f, d_x.data());
    std::vector<float> want(d_x.size(), -7.0f);
    for (size_t r = 0; r < 4; ++r) {
      std::vector<float> row(static_cast<size_t>(cols));
      UnpackRow(table, packed.data(), ids[r], row.data());
      for (size_t c = 0; c < row.size(); ++c) want[r * row.size() + c] = 3.3f * row[c];
    }
    EXPECT_TRUE(Download(d_x) == want) << static_cast<int>(type);
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
