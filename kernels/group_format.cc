#include "kernels/group_format.h"

#include <cstring>

#include "base/check.h"
#include "kernels/quant_format.h"
#include "kernels/quant_format_blocks.h"

namespace dunlin::kernels {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

void CheckShape(const GroupMatrix& m) {
  CHECK(IsGroupBits(m.bits)) << m.bits << " bits";
  CHECK_GE(m.rows, 1);
  CHECK_GE(m.cols, 1);
  CHECK_EQ(m.cols % kGroupBlock, 0) << "columns " << m.cols;
  CHECK_EQ(int64_t{m.rows} * m.bits % 32, 0) << "rows " << m.rows;
  CHECK(m.group_size == -1 || (m.group_size > 0 && m.group_size % kGroupBlock == 0)) << "group size " << m.group_size;
  CHECK_EQ(m.qweight.size(), m.qweight_bytes());
  CHECK_EQ(m.qzeros.size(), m.qzeros_bytes());
  CHECK_EQ(m.scales.size(), m.scales_bytes());
}

// The words of one block's codes: word w of block b of output `row` lies in qweight's row b * bits + w.
const uint8_t* CodeWord(const GroupMatrix& m, int row, int block, int word) {
  return m.qweight.data() + 4 * (Index(int64_t{block} * m.bits + word) * Index(m.rows) + Index(row));
}

void StoreHeader(const GroupMatrix& m, int row, int group, bool with_zero, uint8_t* block) {
  std::memcpy(block, m.scales.data() + 2 * (Index(group) * Index(m.rows) + Index(row)), 2);
  if (with_zero) block[2] = static_cast<uint8_t>(m.zero(row, group));
}

// From a block's codes in order to the code bytes of a Q4_0 block (signs are the type's own) or a Q8_0 block.
void StoreQ4(const uint8_t* codes, uint8_t* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<uint8_t>(GroupBlock::CodeAt(codes, 4, j) | (GroupBlock::CodeAt(codes, 4, j + 16) << 4));
  }
}
void StoreQ8(const uint8_t* codes, uint8_t* out) {
  for (int j = 0; j < kGroupBlock; ++j) out[j] = static_cast<uint8_t>(codes[j] ^ 0x80);  // code - 128
}

}  // namespace

float GroupBlock::scale() const { return quant_internal::LoadHalf(block_); }

void GroupBlock::Codes(uint8_t (&codes)[kGroupBlock]) const {
  const uint8_t* at = block_ + kGroupBlockHeader;
  const uint64_t mask = (uint64_t{1} << bits_) - 1;
  for (int first = 0; first < kGroupBlock; first += 8) {  // eight codes are `bits` bytes
    uint64_t stream = 0;
    for (int byte = 0; byte < bits_; ++byte) stream |= uint64_t{*at++} << (8 * byte);
    for (int i = 0; i < 8; ++i) codes[first + i] = static_cast<uint8_t>((stream >> (bits_ * i)) & mask);
  }
}

int GroupBlock::CodeAt(const uint8_t* stream, int bits, int64_t i) {
  const int64_t bit = i * bits;
  const int shift = static_cast<int>(bit % 8);
  int value = stream[bit / 8] >> shift;
  if (shift + bits > 8) value |= stream[bit / 8 + 1] << (8 - shift);
  return value & ((1 << bits) - 1);
}

bool IsGroupBits(int64_t bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

int GroupBits(DType type) {
  switch (type) {
    case DType::kInt2:
      return 2;
    case DType::kInt3:
      return 3;
    case DType::kInt4:
      return 4;
    case DType::kInt8:
      return 8;
    default:
      return 0;
  }
}

int GroupMatrix::num_groups() const { return group_size < 0 ? 1 : (cols + group_size - 1) / group_size; }
size_t GroupMatrix::qweight_bytes() const { return Index(cols / kGroupBlock) * Index(bits) * 4 * Index(rows); }
size_t GroupMatrix::qzeros_bytes() const { return Index(num_groups()) * Index(int64_t{rows} * bits / 8); }
size_t GroupMatrix::scales_bytes() const { return Index(num_groups()) * 2 * Index(rows); }

int GroupMatrix::code(int row, int col) const {
  uint8_t words[4 * 8 + 1] = {};
  for (int w = 0; w < bits; ++w) std::memcpy(words + 4 * w, CodeWord(*this, row, col / kGroupBlock, w), 4);
  return GroupBlock::CodeAt(words, bits, col % kGroupBlock);
}

int GroupMatrix::zero(int row, int group) const {
  const uint8_t* zeros = qzeros.data() + Index(group) * Index(int64_t{rows} * bits / 8);
  return (GroupBlock::CodeAt(zeros, bits, row) + (zero_minus_one ? 1 : 0)) & ((1 << bits) - 1);
}

uint16_t GroupMatrix::scale_bits(int row, int group) const {
  return quant_internal::LoadU16(scales.data() + 2 * (Index(group) * Index(rows) + Index(row)));
}

DType GroupBlockType(const GroupMatrix& m) {
  CheckShape(m);
  if (m.bits == 2) return DType::kInt2;
  if (m.bits == 3) return DType::kInt3;
  for (int group = 0; group < m.num_groups(); ++group) {
    for (int row = 0; row < m.rows; ++row) {
      if (m.zero(row, group) != 1 << (m.bits - 1)) return m.bits == 4 ? DType::kInt4 : DType::kInt8;
    }
  }
  return m.bits == 4 ? DType::kQ4_0 : DType::kQ8_0;
}

void GroupToBlocks(const GroupMatrix& m, DType type, std::span<uint8_t> out) {
  CheckShape(m);
  CHECK(GroupBits(type) == m.bits || type == (m.bits == 4 ? DType::kQ4_0 : DType::kQ8_0))
      << m.bits << " bits as " << GetDTypeInfo(type).name;
  const size_t row_bytes = RowBytes(type, m.cols);
  CHECK_EQ(out.size(), row_bytes * Index(m.rows));
  const size_t block_bytes = Index(GetDTypeInfo(type).block_bytes);
  const bool with_zero = GroupBits(type) != 0;
  // A strip of outputs at a time: its words lie side by side in every row of qweight.
  constexpr int kStrip = 16;
  for (int first = 0; first < m.rows; first += kStrip) {
    const int last = first + kStrip < m.rows ? first + kStrip : m.rows;
    for (int b = 0; b < m.cols / kGroupBlock; ++b) {
      const int group = m.group_of(b * kGroupBlock);
      for (int row = first; row < last; ++row) {
        uint8_t* block = out.data() + Index(row) * row_bytes + Index(b) * block_bytes;
        StoreHeader(m, row, group, with_zero, block);
        uint8_t words[4 * 8];
        for (int w = 0; w < m.bits; ++w) std::memcpy(words + 4 * w, CodeWord(m, row, b, w), 4);
        if (with_zero) {
          std::memcpy(block + kGroupBlockHeader, words, 4 * Index(m.bits));
        } else if (type == DType::kQ4_0) {
          StoreQ4(words, block + 2);
        } else {
          StoreQ8(words, block + 2);
        }
      }
    }
  }
}

}  // namespace dunlin::kernels
