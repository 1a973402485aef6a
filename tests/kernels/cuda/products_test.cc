// Weight products against float64 on the values that the packed bytes and the prepared activations stand for.
#include "kernels/cuda/products.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/group_format.h"
#include "kernels/quant_format.h"
#include "kernels/unpack_groups.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/cuda/host_rows.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::kAllTypes;
using kernels::testing::kMatrixCases;
using kernels::testing::MatrixCase;
using kernels::testing::Random;
using kernels::testing::RandomWeights;
using kernels::testing::RoundToBlocks;

using testing::HostRows;
using testing::PrepareCodes;
using testing::PrepareHalves;
using testing::Slice;

constexpr float kCanary = 12345.0f;

// A matrix on the device, what it means, and what bounds the sums that its kernels make.
struct Weights {
  CudaMatrix matrix;
  std::vector<double> values;     // [rows, cols]
  std::vector<double> magnitude;  // the same: no less than any term of the value times an activation
};

class ProductsTest : public testing::DeviceTest {
 protected:
  Weights Pack(DType type, int rows, int cols, const std::vector<uint8_t>& bytes) {
    Weights w;
    EXPECT_TRUE(PackMatrix(type, rows, cols, bytes, &arenas_.emplace_back(device_), &w.matrix));
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
  // blocks: how many of a row share their scales.
  Weights RandomMatrix(DType type, int rows, int cols, int blocks = 1) {
    std::vector<uint8_t> bytes = RandomWeights(type, int64_t{rows} * cols, &random_);
    const auto size = static_cast<size_t>(GetDTypeInfo(type).block_bytes);
    const size_t in_row = bytes.size() / size / static_cast<size_t>(rows);
    const size_t header = type == DType::kQ4_1 ? 4 : GroupBits(type) != 0 ? 3 : 2;
    for (size_t b = 0; blocks > 1 && b < bytes.size() / size; ++b) {
      const size_t first = b - b % in_row % static_cast<size_t>(blocks);
      std::memcpy(bytes.data() + b * size, bytes.data() + first * size, header);
    }
    return Pack(type, rows, cols, bytes);
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
    std::vector<float> values = Download(out);
    buffers_.pop_back();
    return values;
  }

  std::vector<float> Gated(const Weights& gate, const Weights& up, FfnActivation activation, const HostRows& rows) {
    const PreparedRows in = Upload(rows, rows.rows);
    auto out = Room<float>(static_cast<size_t>(rows.rows) * static_cast<size_t>(gate.matrix.rows));
    MultiplyGated(device_, gate.matrix, up.matrix, activation, in, nullptr, out.data());
    std::vector<float> values = Download(out);
    buffers_.pop_back();
    return values;
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

// Checks every output of a product and adds to the sums of squares of error and result against what was not rounded.
struct Squares {
  double error = 0, result = 0;
};
void Check(const Weights& w, const HostRows& in, const std::vector<float>& x, const std::vector<float>& got,
           Squares* squares) {
  const int rows = w.matrix.rows, cols = w.matrix.cols;
  ASSERT_EQ(got.size(), static_cast<size_t>(in.rows) * static_cast<size_t>(rows));
  for (int r = 0; r < in.rows; ++r) {
    for (int o = 0; o < rows; ++o) {
      const Exact want = Dot(w, o, in, r);
      const double y = got[static_cast<size_t>(r * rows + o)];
      ASSERT_TRUE(std::fabs(y - want.value) <= Tolerance(w, want.magnitude))
          << rows << "x" << cols << ", " << in.rows << " rows, at " << r << ", " << o << ": " << y << " for "
          << want.value;
      double plain = 0;
      for (int c = 0; c < cols; ++c) {
        plain += w.values[static_cast<size_t>(o * cols + c)] * double{x[static_cast<size_t>(r * cols + c)]};
      }
      squares->error += (y - plain) * (y - plain);
      squares->result += plain * plain;
    }
  }
}

TEST_F(ProductsTest, EveryTypeShapeAndNumberOfRows) {
  for (const DType type : kAllTypes) {
    SCOPED_TRACE(GetDTypeInfo(type).name);
    Squares squares;
    bool codes = false;
    for (const MatrixCase& c : kMatrixCases) {
      const int cols = RoundToBlocks(type, c.cols);
      const Weights w = RandomMatrix(type, c.rows, cols);
      codes = w.matrix.takes_codes();
      for (const int rows : {1, 2, 7, 8, 9, 17, 33, 65}) {
        const std::vector<float> x = random_.Normals(static_cast<size_t>(rows * cols));
        const HostRows in = Prepare(w, x, rows);
        ASSERT_NO_FATAL_FAILURE(Check(w, in, x, Product(w, in), &squares));
      }
    }
    EXPECT_TRUE(squares.error <= squares.result * (codes ? 5e-4 : 1e-6)) << squares.error << " of " << squares.result;
  }
}

TEST_F(ProductsTest, WideGroups) {
  Squares squares;
  for (const DType type : {DType::kQ4_0, DType::kQ4_1, DType::kQ8_0, DType::kInt2, DType::kInt4, DType::kE4M3}) {
    SCOPED_TRACE(GetDTypeInfo(type).name);
    for (const int blocks : {2, 4}) {
      const Weights w = RandomMatrix(type, 33, 288, blocks);
      ASSERT_EQ(w.matrix.group_cols, 32 * blocks);
      for (const int rows : {3, 33}) {
        const std::vector<float> x = random_.Normals(static_cast<size_t>(rows * 288));
        const HostRows in = Prepare(w, x, rows);
        ASSERT_NO_FATAL_FAILURE(Check(w, in, x, Product(w, in), &squares));
      }
    }
  }
}

// One of each form of kernel.
constexpr DType kForms[] = {DType::kInt2, DType::kQ2_K, DType::kQ4_0, DType::kQ4_K, DType::kQ3_K,
                            DType::kQ8_0, DType::kQ5_K, DType::kQ6_K, DType::kE4M3, DType::kF16};

TEST_F(ProductsTest, ARowsBitsDoNotDependOnTheBatch) {
  constexpr int kRows = 33, kCols = 1536, kAll = 65;
  for (const DType type : kForms) {
    SCOPED_TRACE(GetDTypeInfo(type).name);
    const Weights w = RandomMatrix(type, kRows, kCols), up = RandomMatrix(type, kRows, kCols);
    const HostRows all = Prepare(w, random_.Normals(size_t{kAll} * kCols), kAll);
    const std::vector<float> want = Product(w, all), gated = Gated(w, up, FfnActivation::kSilu, all);
    ASSERT_EQ(Product(w, all), want);
    for (const int rows : {1, 3, 12, 20}) {
      const int first = 40 - rows;
      const auto begin = static_cast<std::ptrdiff_t>(first) * kRows, size = static_cast<std::ptrdiff_t>(rows) * kRows;
      const HostRows some = Slice(all, first, rows);
      EXPECT_EQ(Product(w, some), std::vector<float>(want.begin() + begin, want.begin() + begin + size)) << rows;
      EXPECT_EQ(Gated(w, up, FfnActivation::kSilu, some),
                std::vector<float>(gated.begin() + begin, gated.begin() + begin + size))
          << rows;
    }
  }
}

TEST_F(ProductsTest, RowsBeyondTheDevicesCountAreLeftAlone) {
  for (const DType type : kForms) {
    SCOPED_TRACE(GetDTypeInfo(type).name);
    const Weights w = RandomMatrix(type, 31, 512);
    for (const int capacity : {8, 16, 32, 70}) {
      const int count = capacity * 5 / 8;
      const HostRows rows = Prepare(w, random_.Normals(static_cast<size_t>(count * 512)), count);
      const std::vector<float> want = Product(w, rows);
      const PreparedRows in = Upload(rows, capacity);  // poisoned behind
      const auto num_rows = DeviceTest::Upload(std::vector<int32_t>{count});
      const auto out = DeviceTest::Upload(std::vector<float>(static_cast<size_t>(capacity) * 31, kCanary));
      Multiply(device_, w.matrix, in, num_rows.data(), {.out = out.data(), .ld = 31});
      const std::vector<float> got = Download(out);
      const auto end = static_cast<std::ptrdiff_t>(want.size());
      EXPECT_EQ(std::vector<float>(got.begin(), got.begin() + end), want);
      EXPECT_EQ(std::count(got.begin() + end, got.end(), kCanary), static_cast<std::ptrdiff_t>(got.size()) - end);
    }
  }
}

TEST_F(ProductsTest, AGraphReadsTheCountAnew) {
  const Weights w = RandomMatrix(DType::kQ4_0, 16, 128);
  const HostRows rows = Prepare(w, random_.Normals(8 * 128), 8);
  const std::vector<float> want = Product(w, rows);
  const PreparedRows in = Upload(rows, 8);
  const auto num_rows = DeviceTest::Upload(std::vector<int32_t>{0});
  const auto out = DeviceTest::Upload(std::vector<float>(8 * 16, kCanary));
  device_->BeginCapture();
  Multiply(device_, w.matrix, in, num_rows.data(), {.out = out.data(), .ld = 16});
  const int graph = device_->EndCapture();
  ASSERT_GE(graph, 0);
  for (const int32_t count : {0, 2, 8}) {
    device_->CopyToDevice(num_rows.data(), &count, sizeof count);
    device_->LaunchGraph(graph);
    std::vector<float> expected(8 * 16, kCanary);
    std::copy_n(want.begin(), count * 16, expected.begin());
    EXPECT_EQ(Download(out), expected) << count;
  }
  device_->DropGraph(graph);
}

TEST_F(ProductsTest, GatedPairs) {
  struct Pair {
    DType gate, up;
  };
  // Pairs of one type share a launch; the others take one each.
  std::vector<Pair> pairs = {{DType::kQ4_K, DType::kQ6_K}, {DType::kQ8_0, DType::kQ4_1}, {DType::kF16, DType::kE4M3}};
  for (const DType type : kForms) pairs.push_back({type, type});
  for (const Pair& types : pairs) {
    const DType type = types.gate;
    for (const FfnActivation activation : {FfnActivation::kSilu, FfnActivation::kGeluTanh}) {
      for (const int rows : {1, 11, 20, 40}) {
        SCOPED_TRACE(std::string(GetDTypeInfo(type).name) + " " + std::to_string(rows));
        const Weights gate = RandomMatrix(type, 83, 256), up = RandomMatrix(types.up, 83, 256);
        const HostRows in = Prepare(gate, random_.Normals(static_cast<size_t>(rows * 256)), rows);
        const std::vector<float> got = Gated(gate, up, activation, in);
        for (int i = 0; i < rows * 83; ++i) {
          const Exact g = Dot(gate, i % 83, in, i / 83), u = Dot(up, i % 83, in, i / 83);
          const double x = g.value;
          const double act = activation == FfnActivation::kSilu
                                 ? x / (1 + std::exp(-x))
                                 : 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
          // No activation is steeper than 1.13; its own error is that of an exponential of a rounded argument: where
          // this is not damped, |argument| is below 90, so 90 * 2^-23 and a few roundings.
          const double tolerance = 1.13 * Tolerance(gate, g.magnitude) * std::fabs(u.value) +
                                   std::fabs(act) * Tolerance(up, u.magnitude) +
                                   std::fabs(act * u.value) * 100 * 0x1p-23 + 1e-30;
          ASSERT_TRUE(std::fabs(got[static_cast<size_t>(i)] - act * u.value) <= 2 * tolerance) << i << ": " << x;
        }
      }
    }
  }
}

TEST_F(ProductsTest, PartsWithBiasAddAndPlaces) {
  constexpr int kCols = 512;
  const Weights q = RandomMatrix(DType::kQ4_K, 100, kCols), k = RandomMatrix(DType::kQ4_K, 17, kCols),
                v = RandomMatrix(DType::kQ6_K, 40, kCols);
  for (const int rows : {1, 9, 18, 40}) {
    SCOPED_TRACE(rows);
    const HostRows host = Prepare(q, random_.Normals(static_cast<size_t>(rows * kCols)), rows);
    const std::vector<float> want_q = Product(q, host), want_k = Product(k, host), want_v = Product(v, host);
    const std::vector<float> bias = random_.Normals(100), residual = random_.Normals(static_cast<size_t>(rows * 17));
    std::vector<int32_t> places;
    for (int i = 0; i < rows; ++i) places.push_back(2 * (rows - 1 - i));
    const auto bias_on = DeviceTest::Upload(bias);
    const auto places_on = DeviceTest::Upload(places);
    const auto out_q = DeviceTest::Upload(std::vector<float>(static_cast<size_t>(rows) * 103, kCanary));
    const auto out_k = DeviceTest::Upload(residual);
    const auto out_v = DeviceTest::Upload(std::vector<float>(static_cast<size_t>(2 * rows) * 40, kCanary));
    const ProductPart parts[] = {
        {&q.matrix, {.out = out_q.data(), .ld = 103, .bias = bias_on.data()}},
        {&k.matrix, {.out = out_k.data(), .ld = 17, .add = true}},
        {&v.matrix, {.out = out_v.data(), .ld = 40, .to_rows = places_on.data()}},
    };
    MultiplyParts(device_, parts, 3, Upload(host, rows), nullptr);
    std::vector<float> all_q(static_cast<size_t>(rows) * 103, kCanary), all_k = residual;
    std::vector<float> all_v(static_cast<size_t>(2 * rows) * 40, kCanary);
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      for (size_t o = 0; o < 100; ++o) all_q[r * 103 + o] = want_q[r * 100 + o] + bias[o];
      for (size_t o = 0; o < 17; ++o) all_k[r * 17 + o] += want_k[r * 17 + o];
      for (size_t o = 0; o < 40; ++o) all_v[static_cast<size_t>(places[r]) * 40 + o] = want_v[r * 40 + o];
    }
    EXPECT_EQ(Download(out_q), all_q);
    EXPECT_EQ(Download(out_k), all_k);
    EXPECT_EQ(Download(out_v), all_v);
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
