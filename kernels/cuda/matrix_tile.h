// Where the bytes of a CudaMatrix lie, and the meaning of one of its values; host and device.
//
// A warp's load i of a unit (16 bytes per lane, four words; g = lane / 4, t = lane % 4; a block is 32 columns):
//   kW8   block i; word j: row g + 8 (j % 2), columns 16 (j / 2) + 4t…: a0…a3 of MmaS8
//   kW4   blocks 2i, 2i + 1: the word that kW8 has for the first in the low nibbles, for the second in the high ones
//   kW2   blocks 0…3: block p's in bits 2p and 2p + 1 of every byte
//   kE4M3 block i; word j: row g + 8 (j % 2), columns 8t + 4 (j / 2)…: two MmaF16 after E4M3ToHalf
//   kF16  block i / 2; word j: row g + 8 (j % 2), columns 8t + 4 (i % 2) + 2 (j / 2)…: a0…a3 of MmaF16
// For halves, lane t's columns of a block are thus the eight 8t…: one 16-byte load of activations for two products.
//
// A unit's scales: for every group, for every g the rows g and g + 8: halves (scale of g, of g + 8), then where there
// are any (min or offset of g, of g + 8); then for every block and g the factors: int8 of row g (one, or two of 16
// columns), of row g + 8, then the min's factors (uint8) likewise.
//
// Thread-safety: pure functions.  Errors: none.  Source: ours; fragments as PTX ISA 8.x.
#ifndef DUNLIN_KERNELS_CUDA_MATRIX_TILE_H_
#define DUNLIN_KERNELS_CUDA_MATRIX_TILE_H_

#include <cstdint>

#include "kernels/cuda/matrix.h"

namespace dunlin::kernels::cuda {

// Of a value within its row tile's codes: the byte, and for codes of less than a byte the bit.
struct CodePlaceInTile {
  int64_t byte;
  int bit;
};
DUNLIN_HOST_DEVICE inline CodePlaceInTile PlaceOfCode(const CudaMatrix& m, int row, int col) {
  const int64_t unit = int64_t{col / kUnitColumns} * m.unit_loads() * kLoadBytes;
  const int block = col / 32 % 4, c = col % 32, r = row % kTileRows;
  if (!m.takes_codes()) {
    const int t = c / 8;
    const int lane = r % 8 * 4 + t;
    if (m.kind == CudaKind::kE4M3) {
      return {unit + block * kLoadBytes + lane * 16 + (r / 8 + c % 8 / 4 * 2) * 4 + c % 4, 0};
    }
    const int load = 2 * block + c % 8 / 4;
    return {unit + load * kLoadBytes + lane * 16 + (r / 8 + c % 4 / 2 * 2) * 4 + c % 2 * 2, 0};
  }
  const int lane = r % 8 * 4 + c % 16 / 4;
  const int in_load = lane * 16 + (r / 8 + c / 16 * 2) * 4 + c % 4;
  if (m.kind == CudaKind::kW8) return {unit + block * kLoadBytes + in_load, 0};
  if (m.kind == CudaKind::kW4) return {unit + block / 2 * kLoadBytes + in_load, block % 2 * 4};
  return {unit + in_load, block * 2};
}

// Within the row tile: the scale of `row` (its second is 4 bytes on) and its first factor.
DUNLIN_HOST_DEVICE inline int64_t PlaceOfScale(const CudaMatrix& m, int row, int col) {
  return m.scales_at() + int64_t{col / kUnitColumns} * m.unit_scale_bytes() +
         (col % kUnitColumns / m.group_cols * 8 + row % 8) * m.scale_bytes() + row % 16 / 8 * 2;
}
DUNLIN_HOST_DEVICE inline int64_t PlaceOfFactor(const CudaMatrix& m, int row, int col) {
  const int per_row = 32 / m.factor_cols;
  return m.scales_at() + int64_t{col / kUnitColumns} * m.unit_scale_bytes() +
         8 * (kUnitColumns / m.group_cols * m.scale_bytes()) + (col / 32 % 4 * 8 + row % 8) * m.factor_bytes() +
         row % 16 / 8 * per_row + col % 32 / m.factor_cols;
}
// Of a min's factor, behind a scale's.
DUNLIN_HOST_DEVICE inline int MinFactorDistance(const CudaMatrix& m) { return 2 * (32 / m.factor_cols); }

DUNLIN_HOST_DEVICE inline float FloatOfBits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
DUNLIN_HOST_DEVICE inline float FloatOfHalf(const uint8_t* at) {
  const uint32_t bits = static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 8;
  const uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return FloatOfBits(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  // The exponent is 112 too small as a float's: exact, subnormals too.
  return FloatOfBits(sign | magnitude << 13) * 0x1p112f;
}

// One value, as the kernels multiply it. data: the matrix's bytes, wherever the caller can read them.
DUNLIN_HOST_DEVICE inline float MatrixValue(const CudaMatrix& m, const uint8_t* data, int row, int col) {
  const uint8_t* tile = data + row / kTileRows * m.row_tile_bytes();
  const CodePlaceInTile place = PlaceOfCode(m, row, col);
  const uint8_t* at = tile + place.byte;
  if (m.kind == CudaKind::kF16) {
    const uint8_t* f = data + m.row_factors_at() + int64_t{row} * 4;
    const uint32_t bits = static_cast<uint32_t>(f[0]) | static_cast<uint32_t>(f[1]) << 8 |
                          static_cast<uint32_t>(f[2]) << 16 | static_cast<uint32_t>(f[3]) << 24;
    return FloatOfHalf(at) * FloatOfBits(bits);
  }
  const uint8_t* s = tile + PlaceOfScale(m, row, col);
  const float scale = FloatOfHalf(s);
  if (m.kind == CudaKind::kE4M3) {
    // Exponent 8 and 120 too small.
    return scale * (FloatOfBits((*at & 0x80u) << 24 | (*at & 0x7Fu) << 20) * 0x1p120f);
  }
  int code = static_cast<int8_t>(*at);
  if (m.kind == CudaKind::kW4) code = *at >> place.bit & 15;
  if (m.kind == CudaKind::kW2) code = *at >> place.bit & 3;
  float d = scale, second = m.second == CudaSecond::kNone ? 0.0f : FloatOfHalf(s + 4);
  if (m.factor_cols != 0) {
    const uint8_t* factor = tile + PlaceOfFactor(m, row, col);
    d *= static_cast<float>(static_cast<int8_t>(*factor));
    if (m.second == CudaSecond::kMin) second *= static_cast<float>(factor[MinFactorDistance(m)]);
  }
  if (m.second == CudaSecond::kMin) return d * static_cast<float>(code) + second;
  const float offset = m.second == CudaSecond::kOffset ? second : static_cast<float>(m.code_offset);
  return d * (static_cast<float>(code) + offset);
}
// On the device.
DUNLIN_HOST_DEVICE inline float MatrixValue(const CudaMatrix& m, int row, int col) {
  return MatrixValue(m, m.data, row, col);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_MATRIX_TILE_H_
