// Packing and matrix products: exact codes, results within the error of int8 activations, and the same bits for every
// batch size, thread count and instruction set family.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/group_format.h"
#include "kernels/quant_format.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cpu {
namespace {

using testing::kAllTypes;
using testing::kMatrixCases;
using testing::MatrixCase;
using testing::Random;
using testing::RandomWeights;
using testing::RoundToBlocks;

std::unique_ptr<CpuOps> MakeOps(int threads, Isa isa, int max_rows, int cols) {
  auto ops = std::make_unique<CpuOps>(threads, isa);
  OpLimits limits;
  limits.max_rows = max_rows;
  limits.hidden = cols;
  limits.vocab = 1;
  ops->Reserve(limits);
  return ops;
}

// W x for every row of x.
std::vector<float> Product(CpuOps* ops, const CpuMatrix& w, int num_rows, const std::vector<float>& x) {
  constexpr float kCanary = 12345.0f;
  const size_t n = static_cast<size_t>(num_rows) * static_cast<size_t>(w.rows);
  std::vector<float> y(n + 16, 0.0f);
  std::fill(y.begin() + static_cast<std::ptrdiff_t>(n), y.end(), kCanary);
  ops->ProjectAdd(w, num_rows, x.data(), y.data());
  for (size_t i = n; i < y.size(); ++i) EXPECT_EQ(y[i], kCanary) << "written past the end";
  y.resize(n);
  return y;
}

// The bound: int8 rounding moves an activation by at most amax / 254 of its group of 32; the rest is f32 rounding of
// the tile sums, whose terms are no larger than the group's largest weight and minimum allow.
double Tolerance(const float* w, const float* x, int cols, bool quantized) {
  double rounding = 0.0, magnitude = 0.0;
  for (int g = 0; g < cols; g += 32) {
    double amax = 0.0, wmax = 0.0, wsum = 0.0, xsum = 0.0;
    for (int k = g; k < std::min(cols, g + 32); ++k) {
      amax = std::max(amax, std::fabs(double{x[k]}));
      wmax = std::max(wmax, std::fabs(double{w[k]}));
      wsum += std::fabs(double{w[k]});
      xsum += std::fabs(double{x[k]});
    }
    if (quantized) rounding += wsum * amax / 254.0;
    magnitude += 4.0 * wmax * (xsum + amax);
  }
  return rounding * 1.001 + magnitude * (cols / 8.0 + 8.0) * 0x1p-24 + 1e-30;
}

// The rows of a group: what a family's vectors hold.
class PackedMatrixTest : public ::testing::TestWithParam<int> {};

TEST_P(PackedMatrixTest, RowsComeBackAsTheFileMeansThem) {
  Random random(1);
  ThreadPool pool(2);
  for (DType type : kAllTypes) {
    for (const MatrixCase& c : kMatrixCases) {
      const int cols = RoundToBlocks(type, c.cols);
      const std::vector<uint8_t> bytes = RandomWeights(type, int64_t{c.rows} * cols, &random);
      Arena arena;
      const CpuMatrix m = PackMatrix(type, c.rows, cols, GetParam(), bytes, &arena, &pool);
      std::vector<float> expected(static_cast<size_t>(c.rows) * static_cast<size_t>(cols));
      DequantizeRow(type, bytes, expected);
      std::vector<float> row(static_cast<size_t>(cols));
      for (int r = 0; r < c.rows; ++r) {
        UnpackRow(m, r, row.data());
        for (int k = 0; k < cols; ++k) {
          ASSERT_EQ(row[static_cast<size_t>(k)], expected[static_cast<size_t>(r * cols + k)])
              << GetDTypeInfo(type).name << " row " << r << " column " << k;
        }
      }
    }
  }
}

TEST_P(PackedMatrixTest, ATileTakesTheBitsOfItsCodesAndTwoHalvesARow) {
  const size_t rows = static_cast<size_t>(GetParam());
  EXPECT_EQ(TileBytes(KindFor(DType::kInt2), GetParam()), rows * (32 * 2 / 8 + 4));
  EXPECT_EQ(TileBytes(KindFor(DType::kInt3), GetParam()), rows * (32 * 3 / 8 + 4));
  EXPECT_EQ(TileBytes(KindFor(DType::kInt4), GetParam()), rows * (32 * 4 / 8 + 4));
  EXPECT_EQ(TileBytes(KindFor(DType::kInt8), GetParam()), rows * (32 + 4));
}

INSTANTIATE_TEST_SUITE_P(GroupRows, PackedMatrixTest, ::testing::Values(8, 16));

class MultiplyTest : public ::testing::TestWithParam<DType> {};

TEST_P(MultiplyTest, ProductsAreWithinTheErrorOfInt8Activations) {
  const DType type = GetParam();
  Random random(2);
  for (const MatrixCase& c : kMatrixCases) {
    const int cols = RoundToBlocks(type, c.cols);
    const int num_rows = 7;
    const std::vector<uint8_t> bytes = RandomWeights(type, int64_t{c.rows} * cols, &random);
    std::vector<float> w(static_cast<size_t>(c.rows) * static_cast<size_t>(cols));
    DequantizeRow(type, bytes, w);
    std::vector<float> x = random.Normals(static_cast<size_t>(num_rows * cols));
    for (int k = 0; k < cols; ++k) x[static_cast<size_t>(k)] = 0.0f;  // row 0 is zero
    for (Isa isa : SupportedIsas()) {
      auto ops = MakeOps(2, isa, num_rows, cols);
      const CpuMatrix m = ops->Pack(type, c.rows, cols, bytes);
      const std::vector<float> y = Product(ops.get(), m, num_rows, x);
      for (int r = 0; r < num_rows; ++r) {
        for (int o = 0; o < c.rows; ++o) {
          const float* wr = w.data() + o * cols;
          const float* xr = x.data() + r * cols;
          double exact = 0.0;
          for (int k = 0; k < cols; ++k) exact += double{wr[k]} * double{xr[k]};
          const double error = std::fabs(double{y[static_cast<size_t>(r * c.rows + o)]} - exact);
          ASSERT_TRUE(error <= Tolerance(wr, xr, cols, IsQuantized(m.kind)))
              << IsaName(isa) << " [" << c.rows << ", " << cols << "] row " << r << " output " << o << ": error "
              << error << " of " << exact;
        }
      }
    }
  }
}

TEST_P(MultiplyTest, ARowIsTheSameBitsInEveryBatchOnAnyThreadsAndFamily) {
  const DType type = GetParam();
  Random random(3);
  constexpr int kMaxRows = 33;
  for (const MatrixCase& c : {MatrixCase{45, 320}, MatrixCase{129, 64}}) {
    const int cols = RoundToBlocks(type, c.cols);
    const std::vector<uint8_t> bytes = RandomWeights(type, int64_t{c.rows} * cols, &random);
    const std::vector<float> x = random.Normals(static_cast<size_t>(kMaxRows * cols));
    std::vector<float> alone;  // each row by itself, scalar, one thread
    for (Isa isa : SupportedIsas()) {
      for (int threads : {1, 2, 3, 4}) {
        auto ops = MakeOps(threads, isa, kMaxRows, cols);
        const CpuMatrix m = ops->Pack(type, c.rows, cols, bytes);
        if (alone.empty()) {
          for (int r = 0; r < kMaxRows; ++r) {
            const std::vector<float> row(x.begin() + r * cols, x.begin() + (r + 1) * cols);
            const std::vector<float> y = Product(ops.get(), m, 1, row);
            alone.insert(alone.end(), y.begin(), y.end());
          }
        }
        for (int num_rows = 1; num_rows <= kMaxRows; num_rows += threads == 1 ? 1 : 4) {
          const std::vector<float> y = Product(ops.get(), m, num_rows, x);
          ASSERT_EQ(std::memcmp(y.data(), alone.data(), y.size() * sizeof(float)), 0)
              << IsaName(isa) << ", " << threads << " threads, " << num_rows << " rows";
        }
      }
    }
  }
}

TEST_P(MultiplyTest, BatchesBeyondOneCachePassGiveTheSameBits) {
  const DType type = GetParam();
  Random random(4);
  const int cols = RoundToBlocks(type, 64);
  constexpr int kRows = 300, kOutputs = 40;
  const std::vector<uint8_t> bytes = RandomWeights(type, int64_t{kOutputs} * cols, &random);
  const std::vector<float> x = random.Normals(static_cast<size_t>(kRows * cols));
  auto ops = MakeOps(2, SupportedIsas().back(), kRows, cols);
  const CpuMatrix m = ops->Pack(type, kOutputs, cols, bytes);
  const std::vector<float> together = Product(ops.get(), m, kRows, x);
  for (int r : {0, 1, 255, 256, 299}) {
    const std::vector<float> row(x.begin() + r * cols, x.begin() + (r + 1) * cols);
    const std::vector<float> y = Product(ops.get(), m, 1, row);
    EXPECT_EQ(std::memcmp(y.data(), together.data() + r * kOutputs, kOutputs * sizeof(float)), 0) << "row " << r;
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, MultiplyTest, ::testing::ValuesIn(kAllTypes),
                         [](const ::testing::TestParamInfo<DType>& i) { return GetDTypeInfo(i.param).name; });

TEST(MultiplyTest, ExtremeCodesDoNotOverflowTheDotProduct) {
  // Every code and every activation at its limit: the largest sums any family must hold.
  constexpr int kCols = 64;
  for (DType type : {DType::kQ8_0, DType::kQ4_1, DType::kInt2, DType::kInt3, DType::kInt4, DType::kInt8}) {
    for (uint8_t code : {uint8_t{0x80}, uint8_t{0x7F}, uint8_t{0xFF}, uint8_t{0x00}}) {
      std::vector<uint8_t> bytes(RowBytes(type, 8 * kCols), code);
      const uint16_t one = FloatToHalf(1.0f);
      const auto block = static_cast<size_t>(GetDTypeInfo(type).block_bytes);
      for (size_t at = 0; at < bytes.size(); at += block) {
        std::memcpy(bytes.data() + at, &one, 2);
        if (type == DType::kQ4_1) std::memset(bytes.data() + at + 2, 0, 2);
        if (GroupBits(type) != 0) bytes[at + 2] = 0;
      }
      std::vector<float> w(8 * kCols);
      DequantizeRow(type, bytes, w);
      for (float sign : {1.0f, -1.0f}) {
        const std::vector<float> x(static_cast<size_t>(6 * kCols), sign * 127.0f);
        double exact = 0.0;
        for (int k = 0; k < kCols; ++k) exact += double{w[static_cast<size_t>(k)]} * double{sign} * 127.0;
        for (Isa isa : SupportedIsas()) {
          for (int num_rows : {1, 6}) {
            auto ops = MakeOps(1, isa, 6, kCols);
            const CpuMatrix m = ops->Pack(type, 8, kCols, bytes);
            for (float y : Product(ops.get(), m, num_rows, x)) EXPECT_EQ(double{y}, exact) << IsaName(isa);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cpu
