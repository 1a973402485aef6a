// Tensor element types: the ids that GGUF gives them (and ours, beyond its range), and their block geometry.
// Thread-safety: constants only.  Source: the published GGUF specification (type ids, block layouts).
#ifndef DUNLIN_KERNELS_DTYPE_H_
#define DUNLIN_KERNELS_DTYPE_H_

#include <cstddef>
#include <cstdint>

namespace dunlin::kernels {

// Values are GGUF's tensor type ids, but for our own blocks, which a reader makes from a checkpoint and no file holds:
// kInt*: group-quantised weights (group_format.h); kE4M3: f16 scale, then 32 E4M3 codes, value = scale * code.
enum class DType : int32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
  kInt2 = 1002,
  kInt3 = 1003,
  kInt4 = 1004,
  kInt8 = 1008,
  kE4M3 = 1010,
};

// One row of the table of supported types.
struct DTypeInfo {
  DType type;
  const char* name;    // as GGUF tools print it: "Q4_1"
  int block_elements;  // consecutive elements of a row that share one block
  int block_bytes;
};

// nullptr for a type this build cannot read (its id may still be a valid GGUF type).
const DTypeInfo* FindDType(int32_t type_id);
// CHECK-fails for a type that is not in the table.
const DTypeInfo& GetDTypeInfo(DType type);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_DTYPE_H_
