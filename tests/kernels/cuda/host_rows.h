// Rows of activations prepared in plain code on the host, as activations.h says, for the tests of the products.
// Thread-safety: none needed.  Owns: what the struct holds.  Source: ours.
#ifndef DUNLIN_TESTS_KERNELS_CUDA_HOST_ROWS_H_
#define DUNLIN_TESTS_KERNELS_CUDA_HOST_ROWS_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/activations.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels::cuda::testing {

// Prepared on the host, as activations.h says; `values` is what the prepared rows stand for.
struct HostRows {
  int rows = 0, cols = 0, stride = 0;
  std::vector<int8_t> codes;
  std::vector<BlockScale> scales;
  std::vector<uint16_t> halves;
  std::vector<float> row_scale;
  std::vector<double> values;  // [rows, cols]
};

inline HostRows PrepareCodes(const std::vector<float>& x, int rows, int cols) {
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

inline HostRows PrepareHalves(const std::vector<float>& x, int rows, int cols) {
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

// Rows first, first + 1, … of these, alone.
inline HostRows Slice(const HostRows& all, int first, int rows) {
  HostRows s;
  s.rows = rows;
  s.cols = all.cols;
  s.stride = all.stride;
  const auto part = [&](const auto& from, auto* to) {
    const auto each = static_cast<std::ptrdiff_t>(from.size() / static_cast<size_t>(all.rows));
    to->assign(from.begin() + first * each, from.begin() + (first + rows) * each);
  };
  part(all.codes, &s.codes);
  part(all.scales, &s.scales);
  part(all.halves, &s.halves);
  part(all.row_scale, &s.row_scale);
  part(all.values, &s.values);
  return s;
}

}  // namespace dunlin::kernels::cuda::testing

#endif  // DUNLIN_TESTS_KERNELS_CUDA_HOST_ROWS_H_
