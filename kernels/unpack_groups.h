// Splits blocks into integer codes with one scale and one minimum per 16 columns, the form that packing needs;
// value = scale * code + min, each operation rounding on its own, equals DequantizeRow. The kInt* types also have value
// = scale * (code + offset) with a whole offset; for them nothing rounds either way. Thread-safety: pure functions.
// Errors: CHECK on a type without integer codes (F32, F16, BF16, E4M3).  Source: the published block layouts
// (kernels/quant_format*.cc is the reference the tests compare with).
#ifndef DUNLIN_KERNELS_UNPACK_GROUPS_H_
#define DUNLIN_KERNELS_UNPACK_GROUPS_H_

#include <cstdint>

#include "kernels/dtype.h"

namespace dunlin::kernels {

// 32 consecutive columns of a row.
struct CodeGroup {
  int8_t codes[32];
  float scale[2];  // of columns 0…15 and 16…31; equal where the type has one per 32
  float min[2];
  float offset = 0.0f;  // of the kInt* types
};

// Group `index` (columns 32 * index…) of the block at `block`. Q4_0 gives codes 0…15 with min = -8 * scale.
CodeGroup UnpackGroup(DType type, const uint8_t* block, int index);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_UNPACK_GROUPS_H_
