// A weight matrix as the CPU kernels read it: groups of G rows (8, or 16 for a family with 64-byte vectors) cut into
// tiles of G rows x 32 columns, so that one 32-bit broadcast of activations meets G rows and no sum ever crosses lanes.
// Block-quantised types keep their codes exactly, as unsigned codes of 2, 3 or 4 bits or signed ones of 8, with a scale
// and possibly a minimum or an offset per 32 (or 16) columns; F32, F16 and BF16 stay as they are, column by column.
//
// Bytes of a group: its tiles in column order. Bytes of a tile: scales [G] (twice [G] with 16-column scales), minima
// (or offsets) likewise where the kind has them, then codes. 8-bit codes: vector i (4 G bytes) holds columns 4i…4i+3 of
// row r at bytes 4r…4r+3. 4-bit codes: vector j holds vector j of the 8-bit order in its low nibbles and vector j + 4
// in its high nibbles. 2-bit codes: vector j (0, 1) holds vector j + 2p in its bits 2p and 2p + 1. 3-bit codes: the low
// two bits as those of 2-bit codes, then one vector whose bit i is the third bit of vector i. Float kinds: [column][G
// rows]. Rows beyond the matrix are zero.
//
// Thread-safety: plain values.  Owns nothing: the bytes are the arena's of the CpuOps that packed it.
// Errors: CHECK on shapes that contradict each other.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_PACKED_MATRIX_H_
#define DUNLIN_KERNELS_CPU_PACKED_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/dtype.h"

namespace dunlin::kernels::cpu {

inline constexpr int kTileColumns = 32;

// value = scale * code + min, or scale * (code + offset).
enum class PackedKind : uint8_t {
  kU4Half,        // codes 0…15, f16 scale, value = scale * (code - 8): Q4_0
  kU4HalfMin,     // codes 0…15, f16 scale and min: Q4_1
  kU4FloatMin,    // codes 0…15, f32 scale and min: Q4_K
  kU2HalfOffset,  // codes 0…3, f16 scale and offset: INT2
  kU3HalfOffset,  // codes 0…7, likewise: INT3
  kU4HalfOffset,  // codes 0…15, likewise: INT4
  kS8Half,        // codes -128…127, f16 scale: Q8_0, Q5_0, IQ4_NL
  kS8FloatMin,    // codes -128…127, f32 scale and min: Q5_1, Q5_K, IQ4_XS
  kS8FloatMin16,  // the same with a scale and a min per 16 columns: Q2_K, Q3_K, Q6_K
  kS8HalfOffset,  // codes -128…127, f16 scale and offset: INT8
  kF32,
  kF16,
  kBF16,
};

// True where the kernels take int8 activations (the float kinds take f32 ones).
constexpr bool IsQuantized(PackedKind kind) { return kind < PackedKind::kF32; }

struct CpuMatrix {
  int rows = 0;
  int cols = 0;
  int group_rows = 0;
  PackedKind kind = PackedKind::kF32;
  const uint8_t* data = nullptr;
  size_t group_bytes = 0;

  int num_groups() const { return (rows + group_rows - 1) / group_rows; }
  const uint8_t* group(int g) const { return data + static_cast<size_t>(g) * group_bytes; }
  // What one pass over the matrix reads.
  uint64_t packed_bytes() const { return static_cast<uint64_t>(num_groups()) * group_bytes; }
};

PackedKind KindFor(DType type);
// Bytes of a tile (quantised kinds) or of a column of a group (float kinds).
size_t TileBytes(PackedKind kind, int group_rows);

// src: the rows' blocks, any alignment; exactly rows * RowBytes(type, cols) bytes.
CpuMatrix PackMatrix(DType type, int rows, int cols, int group_rows, std::span<const uint8_t> src, Arena* arena,
                     ThreadPool* pool);

// One row back as floats, equal to DequantizeRow of the bytes it came from. out: [cols].
void UnpackRow(const CpuMatrix& matrix, int row, float* out);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_PACKED_MATRIX_H_
