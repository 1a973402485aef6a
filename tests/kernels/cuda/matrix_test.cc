// Packing: every value comes back as the file means it, scales are stored once per group over which they do not change.
#include "kernels/cuda/matrix.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
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

}  // namespace
}  // namespace dunlin::kernels::cuda
