// Reference dequantisation of every supported block type: the meaning of the bytes, in plain code.
// Thread-safety: pure functions.  Cost: not for hot paths; loaders and tests use it.
// Source: the published block layouts; bit-exact against tests/golden/dequant (every operation rounds on its own, in
// the documented order, e.g. Q4_K is (d*sc)*q - (dmin*m)).
#ifndef DUNLIN_KERNELS_QUANT_FORMAT_H_
#define DUNLIN_KERNELS_QUANT_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/dtype.h"

namespace dunlin::kernels {

// IEEE half and bfloat16 bits to float, exact for every bit pattern (subnormals, infinities, NaN).
float HalfToFloat(uint16_t bits);
float Bfloat16ToFloat(uint16_t bits);
// Round to nearest even; overflow becomes infinity.
uint16_t FloatToHalf(float value);
uint16_t FloatToBfloat16(float value);

// Bytes of `num_elements` consecutive elements. CHECK-fails unless they are whole blocks.
size_t RowBytes(DType type, int64_t num_elements);

// src: the blocks of out.size() consecutive elements (whole blocks; any alignment). out: f32 [out.size()].
// CHECK-fails when the sizes do not match RowBytes.
void DequantizeRow(DType type, std::span<const uint8_t> src, std::span<float> out);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_QUANT_FORMAT_H_
