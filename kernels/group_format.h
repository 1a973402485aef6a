// Group-quantised weights (2, 3, 4 or 8 bits; AutoGPTQ's layout): what the arrays of a checkpoint mean, and our blocks
// of them, which every backend packs like the GGUF block types.
//
// W is [out, in]. One column group = group_size consecutive inputs of one output: value = scale * (code - zero), exact
// in f32 (an f16 times an integer of nine bits). The arrays, little-endian:
//   qweight i32 [in * bits / 32, out]    codes of 32 consecutive inputs = `bits` words, lowest bits first
//   qzeros  i32 [groups, out * bits / 32] zeros, packed the same way along the outputs
//   scales  f16 [groups, out]
// GPTQ "v1" stores zero - 1 modulo 2^bits, "v2" the zero itself. Columns whose group is not in order (desc_act, g_idx)
// have no such form.
//
// Our block = 32 consecutive inputs of one output: f16 scale, u8 zero, then its `bits` words of codes: DType::kInt2 to
// kInt8. Where all zeros are the middle of the range, 4 and 8 bits are exactly GGUF's Q4_0 and Q8_0, which are smaller.
//
// Thread-safety: pure functions on borrowed bytes.  Errors: CHECK on shapes that contradict each other.  Cost:
// GroupToBlocks transposes, about a pass over the codes.  Source: AutoGPTQ's published pack(); the blocks are ours.
#ifndef DUNLIN_KERNELS_GROUP_FORMAT_H_
#define DUNLIN_KERNELS_GROUP_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/dtype.h"

namespace dunlin::kernels {

inline constexpr int kGroupBlock = 32;       // columns of a block
inline constexpr int kGroupBlockHeader = 3;  // bytes before its codes

// Reads a block.
class GroupBlock {
 public:
  GroupBlock(const uint8_t* block, int bits) : block_(block), bits_(bits) {}
  float scale() const;
  int zero() const { return block_[2]; }
  // All codes of the block.
  void Codes(uint8_t (&codes)[kGroupBlock]) const;

  // Value i of a little-endian stream of `bits`-bit values.
  static int CodeAt(const uint8_t* stream, int bits, int64_t i);

 private:
  const uint8_t* block_;
  int bits_;
};

// 2, 3, 4 or 8 for kInt2 to kInt8, else 0.
int GroupBits(DType type);
bool IsGroupBits(int64_t bits);

// A weight as a checkpoint stores it. The bytes may have any alignment.
struct GroupMatrix {
  int rows = 0;        // outputs; rows * bits is a multiple of 32
  int cols = 0;        // inputs, a multiple of 32
  int bits = 0;        // 2, 3, 4, 8
  int group_size = 0;  // a multiple of 32, or -1: the whole row is one group
  bool zero_minus_one = true;
  std::span<const uint8_t> qweight;
  std::span<const uint8_t> qzeros;
  std::span<const uint8_t> scales;

  int num_groups() const;  // the last one may be shorter
  size_t qweight_bytes() const;
  size_t qzeros_bytes() const;
  size_t scales_bytes() const;
  // Of one weight, as the definition says.
  int code(int row, int col) const;
  int zero(int row, int group) const;
  uint16_t scale_bits(int row, int group) const;
  int group_of(int col) const { return group_size < 0 ? 0 : col / group_size; }
};

// The type whose blocks hold this matrix exactly in the fewest bytes: kQ4_0 and kQ8_0 where they can, else kInt*.
DType GroupBlockType(const GroupMatrix& matrix);

// All rows as blocks of `type`, which is GroupBlockType's answer or the kInt* of its bits.
// out: rows * RowBytes(type, cols) bytes.
void GroupToBlocks(const GroupMatrix& matrix, DType type, std::span<uint8_t> out);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_GROUP_FORMAT_H_
