// Packing: every value comes back as the file means it, scales are stored once per group over which they do not change.
#include "kernels/cuda/matrix.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/paged_kv.h"
#include "kernels/quant_format.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::kAllTypes;
using kernels::testing::kMatrixCases;
using kernels::testing::MatrixCase;
using kernels::testing::Random;
using kernels::testing::RandomWeights;
using kernels::testing::RoundToBlocks;

class MatrixTest : public testing::DeviceTest {
 protected:
  // All rows, from a copy of what is on the device.
  std::vector<float> Unpack(const CudaMatrix& m) {
    const std::vector<uint8_t> bytes = Download(m.data, m.bytes);
    std::vector<float> values(static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols));
    for (int r = 0; r < m.rows; ++r) {
      UnpackRow(m, bytes.data(), r, values.data() + static_cast<size_t>(r) * static_cast<size_t>(m.cols));
    }
    return values;
  }
};

TEST_F(MatrixTest, RowsComeBackAsTheFileMeansThem) {
  Random random(1);
  for (DType type : kAllTypes) {
    for (const MatrixCase& c : kMatrixCases) {
      SCOPED_TRACE(std::string(GetDTypeInfo(type).name) + " " + std::to_string(c.rows) + "x" + std::to_string(c.cols));
      const int cols = RoundToBlocks(type, c.cols);
      const std::vector<uint8_t> bytes = RandomWeights(type, int64_t{c.rows} * cols, &random);
      WeightArena arena(device_);
      CudaMatrix m;
      ASSERT_TRUE(PackMatrix(type, c.rows, cols, bytes, &arena, &m));
      EXPECT_EQ(m.packed_bytes(), arena.allocated_bytes());
      std::vector<float> want(static_cast<size_t>(c.rows) * static_cast<size_t>(cols));
      DequantizeRow(type, bytes, want);
      const std::vector<float> got = Unpack(m);
      for (size_t i = 0; i < want.size(); ++i) {
        const bool rounds = type == DType::kF32 || type == DType::kBF16;
        // f16 keeps eleven bits; the smallest values of a row have fewer, but 2^-38 of its largest is never lost.
        const float tolerance = rounds ? std::fabs(want[i]) * 0x1p-11f + 0x1p-38f : 0.0f;
        ASSERT_TRUE(std::fabs(got[i] - want[i]) <= tolerance) << i << ": " << got[i] << " for " << want[i];
      }
    }
  }
}

// Gives all blocks of a group of `blocks` the first one's scales (the first `header` bytes).
void WidenGroups(DType type, int blocks_per_row, int blocks, size_t header, std::vector<uint8_t>* bytes) {
  const auto size = static_cast<size_t>(GetDTypeInfo(type).block_bytes);
  for (size_t b = 0; b < bytes->size() / size; ++b) {
    const size_t in_row = b % static_cast<size_t>(blocks_per_row);
    const size_t first = b - in_row % static_cast<size_t>(blocks);
    std::memcpy(bytes->data() + b * size, bytes->data() + first * size, header);
  }
}

TEST_F(MatrixTest, ScalesAreStoredOncePerWidestGroup) {
  struct Case {
    DType type;
    size_t header;
  };
  Random random(2);
  constexpr int kRows = 19, kCols = 288;  // 288: the last group of 128 is cut short
  for (const Case& c : {Case{DType::kQ4_0, 2}, Case{DType::kQ4_1, 4}, Case{DType::kQ8_0, 2}, Case{DType::kInt4, 3},
                        Case{DType::kE4M3, 2}}) {
    uint64_t narrower = UINT64_MAX;
    for (const int group_cols : {32, 64, 128}) {
      SCOPED_TRACE(std::string(GetDTypeInfo(c.type).name) + " " + std::to_string(group_cols));
      std::vector<uint8_t> bytes = RandomWeights(c.type, int64_t{kRows} * kCols, &random);
      WidenGroups(c.type, kCols / 32, group_cols / 32, c.header, &bytes);
      WeightArena arena(device_);
      CudaMatrix m;
      ASSERT_TRUE(PackMatrix(c.type, kRows, kCols, bytes, &arena, &m));
      EXPECT_EQ(m.group_cols, group_cols);
      EXPECT_LT(m.packed_bytes(), narrower);
      narrower = m.packed_bytes();
      std::vector<float> want(size_t{kRows} * kCols);
      DequantizeRow(c.type, bytes, want);
      EXPECT_EQ(Unpack(m), want);
    }
  }
}

TEST_F(MatrixTest, OneZeroForAllIsStoredOnce) {
  Random random(3);
  for (const DType type : {DType::kInt2, DType::kInt3, DType::kInt4, DType::kInt8}) {
    for (const int zero : {0, 1, 3, 255}) {
      if (zero >= 1 << (type == DType::kInt8 ? 8 : 2)) continue;
      std::vector<uint8_t> bytes = RandomWeights(type, 33 * 64, &random);
      const auto size = static_cast<size_t>(GetDTypeInfo(type).block_bytes);
      for (size_t at = 2; at < bytes.size(); at += size) bytes[at] = static_cast<uint8_t>(zero);
      WeightArena arena(device_);
      CudaMatrix m;
      ASSERT_TRUE(PackMatrix(type, 33, 64, bytes, &arena, &m));
      // INT8's codes are stored less 128; an offset of +128 is no int8.
      EXPECT_EQ(m.second == CudaSecond::kNone, type != DType::kInt8 || zero != 0);
      std::vector<float> want(33 * 64);
      DequantizeRow(type, bytes, want);
      EXPECT_EQ(Unpack(m), want);
    }
  }
}

TEST_F(MatrixTest, FloatsOfAnySizeKeepTheirPrecision) {
  Random random(4);
  for (const float size : {1e-30f, 1e-6f, 1.0f, 1e6f, 1e30f}) {
    const std::vector<float> values = random.Normals(40 * 50, size);
    std::vector<uint8_t> bytes(values.size() * 4);
    std::memcpy(bytes.data(), values.data(), bytes.size());
    WeightArena arena(device_);
    CudaMatrix m;
    ASSERT_TRUE(PackMatrix(DType::kF32, 40, 50, bytes, &arena, &m));
    const std::vector<float> got = Unpack(m);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_TRUE(std::fabs(got[i] - values[i]) <= std::fabs(values[i]) * 0x1p-11f + size * 0x1p-34f) << values[i];
    }
  }
  // Every half is itself, subnormals too.
  std::vector<uint8_t> bytes;
  for (int bits = 0; bits < 0x7C00; ++bits) bytes.insert(bytes.end(), {uint8_t(bits & 255), uint8_t(bits >> 8)});
  WeightArena arena(device_);
  CudaMatrix m;
  ASSERT_TRUE(PackMatrix(DType::kF16, 31, 1024, bytes, &arena, &m));
  std::vector<float> want(31 * 1024);
  DequantizeRow(DType::kF16, bytes, want);
  EXPECT_EQ(Unpack(m), want);
}

TEST_F(MatrixTest, E4M3BlocksMeanTheirCodesTimesTheScale) {
  std::vector<uint8_t> bytes;
  std::vector<float> want;
  for (int code = 0; code < 256; ++code) {
    if (code % 32 == 0) bytes.insert(bytes.end(), {0x00, 0x2E});  // 0.09375
    const auto finite = static_cast<uint8_t>((code & 0x7F) == 0x7F ? 0x7E : code);
    bytes.push_back(finite);
    want.push_back(0.09375f * E4M3ToFloat(finite));
  }
  std::vector<float> got(256);
  DequantizeRow(DType::kE4M3, bytes, got);
  EXPECT_EQ(got, want);
  bytes[2] = 0x7F;
  DequantizeRow(DType::kE4M3, bytes, got);
  EXPECT_TRUE(std::isnan(got[0]));
}

}  // namespace
}  // namespace dunlin::kernels::cuda
