// Weight products against float64 on the values that the packed bytes and the prepared activations stand for.
#include "kernels/cuda/products.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant_format.h"
#include "kernels/unpack_groups.h"
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

constexpr float kCanary = 12345.0f;

// A matrix on the device, what it means, and what bounds the sums that its kernels make.
struct Weights {
  CudaMatrix matrix;
  std::vector<double> values;     // [rows, cols]
  std::vector<double> magnitude;  // the same: no less than any term of the value times an activation
};

// Prepared on the host, as activations.h says; `values` is what the prepared rows stand for.
struct HostRows {
  int rows = 0, cols = 0, stride = 0;
  std::vector<int8_t> codes;
  std::vector<BlockScale> scales;
  std::vector<uint16_t> halves;
  std::vector<float> row_scale;
  std::vector<double> values;  // [rows, cols]
};

HostRows PrepareCodes(const std::vector<float>& x, int rows, int cols) {
  HostRows r;
  r.rows = rows;
  r.cols = cols;
  r.stride = PreparedStride(cols);
  r.codes.resize(static_cast<size_t>(rows) * static_cast<size_t>(r.stride));
  r.values.resize(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  for (int row = 0; row < rows; ++row) {
    for (int first = 0; first < r.stride; first += kBlockColumns) {
      const int last = std::min(cols, first + kBlockColumns);
      float amax = 0.0f;
      for (int c = first; c < last; ++c) amax = std::max(amax, std::fabs(x[static_cast<size_t>(row * cols + c)]));
      BlockScale s = {amax > 0 ? amax / 127.0f : 1.0f, 0, 0};
      if (first >= cols) s.scale = 0.0f;
      for (int c = first; c < last; ++c) {
        const float v = std::nearbyint(x[static_cast<size_t>(row * cols + c)] / s.scale);
        const int code = static_cast<int>(std::clamp(v, -127.0f, 127.0f));
        r.codes[static_cast<size_t>(row * r.stride + first + CodePlace(c - first))] = static_cast<int8_t>(code);
        int16_t* sum = c - first < 16 ? &s.low_sum : &s.high_sum;
        *sum = static_cast<int16_t>(*sum + code);
        r.values[static_cast<size_t>(row * cols + c)] = double{s.scale} * code;
      }
      r.scales.push_back(s);
    }
  }
  return r;
}

HostRows PrepareHalves(const std::vector<float>& x, int rows, int cols) {
  HostRows r;
  r.rows = rows;
  r.cols = cols;
  r.stride = PreparedStride(cols);
  r.halves.resize(static_cast<size_t>(rows) * static_cast<size_t>(r.stride));
  r.values.resize(static_cast<size_t>(rows) * static_cast<size_t>(cols));
  for (int row = 0; row < rows; ++row) {
    const int exponent = row % 3;  // whatever it is, the product undoes it
    r.row_scale.push_back(std::ldexp(1.0f, exponent));
    for (int c = 0; c < cols; ++c) {
      const uint16_t half = FloatToHalf(std::ldexp(x[static_cast<size_t>(row * cols + c)], -exponent));
      r.halves[static_cast<size_t>(row * r.stride + c)] = half;
      r.values[static_cast<size_t>(row * cols + c)] = std::ldexp(double{HalfToFloat(half)}, exponent);
    }
  }
  return r;
}

class ProductsTest : public testing::DeviceTest {
 protected:
  Weights Pack(DType type, int rows, int cols, const std::vector<uint8_t>& bytes) {
    Weights w;
    EXPECT_TRUE(PackMatrix(type, rows, cols, bytes, &arena(), &w.matrix));
    const std::vector<uint8_t> packed = Download(w.matrix.data, w.matrix.bytes);
    std::vector<float> row(static_cast<size_t>(cols));
    for (int r = 0; r < rows; ++r) {
      UnpackRow(w.matrix, packed.data(), r, row.data());
      w.values.insert(w.values.end(), row.begin(), row.end());
      for (int c = 0; c < cols; ++c) w.magnitude.push_back(std::fabs(double{row[static_cast<size_t>(c)]}));
    }
    if (!w.matrix.takes_codes()) return w;
    // scale * code and min apart; Q3_K's codes are stored plus 4 with a min of -4 scales.
    const DTypeInfo& info = GetDTypeInfo(type);
    for (size_t i = 0; i < w.magnitude.size(); i += 32) {
      const size_t block = i / static_cast<size_t>(info.block_elements);
      const CodeGroup g = UnpackGroup(type, bytes.data() + block * static_cast<size_t>(info.block_bytes),
                                      static_cast<int>(i % static_cast<size_t>(info.block_elements)) / 32);
      for (size_t c = 0; c < 32; ++c) {
        w.magnitude[i + c] =
            std::fabs(double{g.scale[c / 16]}) * (std::abs(g.codes[c]) + 8) + std::fabs(double{g.min[c / 16]});
      }
    }
    return w;
  }
  Weights RandomMatrix(DType type, int rows, int cols) {
    return Pack(type, rows, cols, RandomWeights(type, int64_t{rows} * cols, &random_));
  }

  // On the device, in a buffer with room for more rows, which stay poisoned.
  PreparedRows Upload(const HostRows& rows, int capacity) {
    buffers_.emplace_back(device_, capacity, rows.cols);
    PreparedRows on =
        rows.codes.empty() ? buffers_.back().Halves(capacity, rows.cols) : buffers_.back().Codes(capacity, rows.cols);
    if (on.codes != nullptr) {
      device_->CopyToDevice(on.codes, rows.codes.data(), rows.codes.size());
      device_->CopyToDevice(on.scales, rows.scales.data(), rows.scales.size() * sizeof(BlockScale));
    } else {
      device_->CopyToDevice(on.halves, rows.halves.data(), rows.halves.size() * 2);
      device_->CopyToDevice(on.row_scale, rows.row_scale.data(), rows.row_scale.size() * 4);
    }
    device_->Synchronize();
    return on;
  }
  HostRows Prepare(const Weights& w, const std::vector<float>& x, int rows) {
    return w.matrix.takes_codes() ? PrepareCodes(x, rows, w.matrix.cols) : PrepareHalves(x, rows, w.matrix.cols);
  }

  std::vector<float> Product(const Weights& w, const HostRows& rows) {
    const PreparedRows in = Upload(rows, rows.rows);
    auto out = Room<float>(static_cast<size_t>(rows.rows) * static_cast<size_t>(w.matrix.rows));
    Multiply(device_, w.matrix, in, nullptr, {.out = out.data(), .ld = w.matrix.rows});
    buffers_.pop_back();
    return Download(out);
  }

  WeightArena& arena() {
    if (arenas_.empty()) arenas_.emplace_back(device_);
    return arenas_.back();
  }
  void TearDown() override {
    buffers_.clear();
    arenas_.clear();
    DeviceTest::TearDown();
  }

  Random random_{7};
  std::vector<PreparedBuffer> buffers_;
  std::vector<WeightArena> arenas_;
};

struct Exact {
  double value = 0, magnitude = 0;
};
Exact Dot(const Weights& w, int o, const HostRows& in, int row) {
  Exact e;
  const size_t cols = static_cast<size_t>(in.cols);
  for (size_t c = 0; c < cols; ++c) {
    const double v = in.values[static_cast<size_t>(row) * cols + c];
    e.value += w.values[static_cast<size_t>(o) * cols + c] * v;
    e.magnitude += w.magnitude[static_cast<size_t>(o) * cols + c] * std::fabs(v);
  }
  return e;
}
// Codes: sums of a block are exact, scale * acc, + min * sum and y + … round once each, in two halves of a block at
// most, the splits' sums eight times: each by 2^-24 of what is bounded by the magnitude. Halves: a tensor core adds
// 16 products to a sum and may cut where it should round, each of the 17 terms by 2^-23 of the largest, twice per
// block's scale.
double Tolerance(const Weights& w, double magnitude) {
  const double blocks = (w.matrix.cols + 31) / 32;
  if (w.matrix.takes_codes()) return magnitude * (6 * blocks + 9) * 0x1p-24;
  return magnitude * (2 * blocks * 17 + 2 * blocks + 9) * 0x1p-23;
}

TEST_F(ProductsTest, EveryTypeShapeAndNumberOfRows) {
  for (const DType type : kAllTypes) {
    for (const MatrixCase& c : kMatrixCases) {
      const int cols = RoundToBlocks(type, c.cols);
      const Weights w = RandomMatrix(type, c.rows, cols);
      for (const int rows : {1, 2, 7, 8, 9, 17, 33, 65}) {
        const std::vector<float> x = random_.Normals(static_cast<size_t>(rows * cols));
        const HostRows in = Prepare(w, x, rows);
        const std::vector<float> got = Product(w, in);
        for (int r = 0; r < rows; ++r) {
          for (int o = 0; o < c.rows; ++o) {
            const Exact want = Dot(w, o, in, r);
            const double error = std::fabs(got[static_cast<size_t>(r * c.rows + o)] - want.value);
            ASSERT_TRUE(error <= Tolerance(w, want.magnitude))
                << GetDTypeInfo(type).name << " " << c.rows << "x" << cols << " rows " << rows << " at " << r << ", "
                << o << ": " << got[static_cast<size_t>(r * c.rows + o)] << " for " << want.value;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
