#include "kernels/cpu/packed_matrix.h"

#include <bit>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kernels/quant_format.h"
#include "kernels/unpack_groups.h"

namespace dunlin::kernels::cpu {
namespace {

// What a tile of a quantised kind holds.
enum class Second : uint8_t { kNone, kMin, kOffset };  // beside the scales
struct KindInfo {
  int code_bits;
  bool half;  // scales, minima and offsets are f16, else f32
  Second second;
  int scales;  // per 32 columns
};

KindInfo InfoOf(PackedKind kind) {
  switch (kind) {
    case PackedKind::kU4Half:
      return {4, true, Second::kNone, 1};
    case PackedKind::kU4HalfMin:
      return {4, true, Second::kMin, 1};
    case PackedKind::kU4FloatMin:
      return {4, false, Second::kMin, 1};
    case PackedKind::kU2HalfOffset:
      return {2, true, Second::kOffset, 1};
    case PackedKind::kU3HalfOffset:
      return {3, true, Second::kOffset, 1};
    case PackedKind::kU4HalfOffset:
      return {4, true, Second::kOffset, 1};
    case PackedKind::kS8Half:
      return {8, true, Second::kNone, 1};
    case PackedKind::kS8FloatMin:
      return {8, false, Second::kMin, 1};
    case PackedKind::kS8FloatMin16:
      return {8, false, Second::kMin, 2};
    case PackedKind::kS8HalfOffset:
      return {8, true, Second::kOffset, 1};
    case PackedKind::kF32:
    case PackedKind::kF16:
    case PackedKind::kBF16:
      break;
  }
  CHECK(false) << "kind " << static_cast<int>(kind) << " has no tiles";
  return {};
}

// How the tiles of one kind lie in memory.
struct TileShape {
  TileShape(PackedKind kind, int rows) : info(InfoOf(kind)), group_rows(rows) {}
  KindInfo info;
  int group_rows;

  size_t scale_vector_bytes() const { return static_cast<size_t>(group_rows) * (info.half ? 2 : 4); }
  size_t codes_offset() const {
    return scale_vector_bytes() * static_cast<size_t>(info.scales) * (info.second == Second::kNone ? 1 : 2);
  }
  // Where the byte of column k of a lane lies behind codes_offset, in vectors of one code per byte.
  size_t code_at(int lane, int k) const { return static_cast<size_t>(4 * group_rows * (k / 4) + 4 * lane + k % 4); }
  // Codes of fewer than eight bits: as many vectors as bits (of three bits, the low two) hold 32 / vectors columns
  // each.
  int low_bits() const { return info.code_bits == 3 ? 2 : info.code_bits; }
};

void StoreScale(const TileShape& shape, uint8_t* vectors, int vector, int lane, float value) {
  uint8_t* at = vectors + static_cast<size_t>(vector) * shape.scale_vector_bytes();
  if (shape.info.half) {
    const uint16_t half = FloatToHalf(value);  // exact: halves are kept where the block has them
    std::memcpy(at + 2 * lane, &half, 2);
  } else {
    std::memcpy(at + 4 * lane, &value, 4);
  }
}

float LoadScale(const TileShape& shape, const uint8_t* vectors, int vector, int lane) {
  const uint8_t* at = vectors + static_cast<size_t>(vector) * shape.scale_vector_bytes();
  if (shape.info.half) {
    uint16_t half;
    std::memcpy(&half, at + 2 * lane, 2);
    return HalfToFloat(half);
  }
  float value;
  std::memcpy(&value, at + 4 * lane, 4);
  return value;
}

// One lane's codes of fewer than eight bits.
template <int kBits>
void StoreCodes(const TileShape& shape, const int8_t* values, int lane, uint8_t* codes) {
  constexpr int kLow = kBits == 3 ? 2 : kBits, kColumns = 4 * kLow;
  for (int k = 0; k < kColumns; ++k) {
    int byte = 0;
    for (int part = 0; part < 8 / kLow; ++part) {
      byte |= (values[k + kColumns * part] & ((1 << kLow) - 1)) << (kLow * part);
    }
    codes[shape.code_at(lane, k)] = static_cast<uint8_t>(byte);
  }
  if constexpr (kBits == 3) {
    for (int k = 0; k < 4; ++k) {
      int byte = 0;
      for (int step = 0; step < 8; ++step) byte |= (values[k + 4 * step] >> 2) << step;
      codes[shape.code_at(lane, kColumns + k)] = static_cast<uint8_t>(byte);
    }
  }
}

void StoreGroup(const TileShape& shape, const CodeGroup& g, int lane, uint8_t* tile) {
  const int scales = shape.info.scales;
  for (int s = 0; s < scales; ++s) {
    StoreScale(shape, tile, s, lane, g.scale[s]);
    if (shape.info.second == Second::kMin) StoreScale(shape, tile, scales + s, lane, g.min[s]);
    if (shape.info.second == Second::kOffset) StoreScale(shape, tile, scales + s, lane, g.offset);
  }
  uint8_t* codes = tile + shape.codes_offset();
  if (shape.info.code_bits == 8) {
    for (int k = 0; k < 32; k += 4) std::memcpy(codes + shape.code_at(lane, k), g.codes + k, 4);
    return;
  }
  if (shape.info.code_bits == 2) return StoreCodes<2>(shape, g.codes, lane, codes);
  if (shape.info.code_bits == 3) return StoreCodes<3>(shape, g.codes, lane, codes);
  return StoreCodes<4>(shape, g.codes, lane, codes);
}

// One group of a quantised matrix.
void PackQuantizedGroup(DType type, const CpuMatrix& m, int group, const uint8_t* src, size_t row_bytes, uint8_t* out) {
  const DTypeInfo& info = GetDTypeInfo(type);
  const int groups_per_block = info.block_elements / kTileColumns;
  const TileShape shape(m.kind, m.group_rows);
  const size_t tile_bytes = TileBytes(m.kind, m.group_rows);
  for (int lane = 0; lane < m.group_rows; ++lane) {
    const int row = group * m.group_rows + lane;
    if (row >= m.rows) break;
    const uint8_t* block = src + static_cast<size_t>(row) * row_bytes;
    uint8_t* tile = out;
    for (int k = 0; k < m.cols; k += info.block_elements) {
      for (int i = 0; i < groups_per_block; ++i) {
        StoreGroup(shape, UnpackGroup(type, block, i), lane, tile);
        tile += tile_bytes;
      }
      block += info.block_bytes;
    }
  }
}

void PackFloatGroup(DType type, const CpuMatrix& m, int group, const uint8_t* src, size_t row_bytes, uint8_t* out) {
  const size_t rows = static_cast<size_t>(m.group_rows);
  const size_t value_bytes = TileBytes(m.kind, m.group_rows) / rows;
  std::vector<float> values;
  for (int lane = 0; lane < m.group_rows; ++lane) {
    const int row = group * m.group_rows + lane;
    if (row >= m.rows) break;
    const uint8_t* from = src + static_cast<size_t>(row) * row_bytes;
    if (type == DType::kE4M3) {
      values.resize(static_cast<size_t>(m.cols));
      DequantizeRow(type, {from, row_bytes}, values);
      from = reinterpret_cast<const uint8_t*>(values.data());
    }
    uint8_t* to = out + static_cast<size_t>(lane) * value_bytes;
    for (int k = 0; k < m.cols; ++k) {
      std::memcpy(to, from, value_bytes);
      from += value_bytes;
      to += value_bytes * rows;
    }
  }
}

float UnpackFloat(PackedKind kind, const uint8_t* at) {
  if (kind == PackedKind::kF32) {
    float v;
    std::memcpy(&v, at, 4);
    return v;
  }
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return kind == PackedKind::kF16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
}

// Column k (0…31) of one lane of a tile.
int UnpackCode(const TileShape& shape, const uint8_t* codes, int lane, int k) {
  if (shape.info.code_bits == 8) return static_cast<int8_t>(codes[shape.code_at(lane, k)]);
  const int bits = shape.low_bits(), columns = 4 * bits;
  const int low = (codes[shape.code_at(lane, k % columns)] >> (bits * (k / columns))) & ((1 << bits) - 1);
  if (shape.info.code_bits != 3) return low;
  return low | (((codes[shape.code_at(lane, columns + k % 4)] >> (k / 4)) & 1) << 2);
}

// The minimum or offset of scale s, 0 where the kind stores none.
float LoadSecond(const TileShape& shape, const uint8_t* tile, int s, int lane) {
  return shape.info.second == Second::kNone ? 0.0f : LoadScale(shape, tile, shape.info.scales + s, lane);
}

}  // namespace

PackedKind KindFor(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return PackedKind::kU4Half;
    case DType::kQ4_1:
      return PackedKind::kU4HalfMin;
    case DType::kQ4_K:
      return PackedKind::kU4FloatMin;
    case DType::kInt2:
      return PackedKind::kU2HalfOffset;
    case DType::kInt3:
      return PackedKind::kU3HalfOffset;
    case DType::kInt4:
      return PackedKind::kU4HalfOffset;
    case DType::kInt8:
      return PackedKind::kS8HalfOffset;
    case DType::kQ8_0:
    case DType::kQ5_0:
    case DType::kIQ4_NL:
      return PackedKind::kS8Half;
    case DType::kQ5_1:
    case DType::kQ5_K:
    case DType::kIQ4_XS:
      return PackedKind::kS8FloatMin;
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kQ6_K:
      return PackedKind::kS8FloatMin16;
    case DType::kF32:
    case DType::kE4M3:  // its values
      return PackedKind::kF32;
    case DType::kF16:
      return PackedKind::kF16;
    case DType::kBF16:
      return PackedKind::kBF16;
  }
  CHECK(false) << "no packed form for tensor type id " << static_cast<int32_t>(type);
  return PackedKind::kF32;
}

size_t TileBytes(PackedKind kind, int group_rows) {
  const auto rows = static_cast<size_t>(group_rows);
  if (kind == PackedKind::kF32) return 4 * rows;
  if (kind == PackedKind::kF16 || kind == PackedKind::kBF16) return 2 * rows;
  const TileShape shape(kind, group_rows);
  return shape.codes_offset() + rows * kTileColumns * static_cast<size_t>(shape.info.code_bits) / 8;
}

CpuMatrix PackMatrix(DType type, int rows, int cols, int group_rows, std::span<const uint8_t> src, Arena* arena,
                     ThreadPool* pool) {
  CHECK(group_rows == 8 || group_rows == 16) << group_rows;
  CHECK_GE(rows, 1);
  CHECK_GE(cols, 1);
  const size_t row_bytes = RowBytes(type, cols);
  CHECK_EQ(src.size(), row_bytes * static_cast<size_t>(rows));
  CpuMatrix m;
  m.rows = rows;
  m.cols = cols;
  m.group_rows = group_rows;
  m.kind = KindFor(type);
  const int tiles = IsQuantized(m.kind) ? cols / kTileColumns : cols;
  m.group_bytes = TileBytes(m.kind, group_rows) * static_cast<size_t>(tiles);
  uint8_t* data = arena->Allocate(m.packed_bytes());
  m.data = data;
  pool->Run([&](ThreadPool::Context& context) {
    constexpr int kChunk = 4;
    while (true) {
      const int64_t first = context.Next(0) * kChunk;
      if (first >= m.num_groups()) return;
      for (int g = static_cast<int>(first); g < first + kChunk && g < m.num_groups(); ++g) {
        uint8_t* out = data + static_cast<size_t>(g) * m.group_bytes;
        if (IsQuantized(m.kind)) {
          PackQuantizedGroup(type, m, g, src.data(), row_bytes, out);
        } else {
          PackFloatGroup(type, m, g, src.data(), row_bytes, out);
        }
      }
    }
  });
  return m;
}

void UnpackRow(const CpuMatrix& m, int row, float* out) {
  CHECK_GE(row, 0);
  CHECK_LT(row, m.rows);
  const int lane = row % m.group_rows;
  const uint8_t* at = m.group(row / m.group_rows);
  const size_t tile_bytes = TileBytes(m.kind, m.group_rows);
  if (!IsQuantized(m.kind)) {
    at += static_cast<size_t>(lane) * (tile_bytes / static_cast<size_t>(m.group_rows));
    for (int k = 0; k < m.cols; ++k, at += tile_bytes) out[k] = UnpackFloat(m.kind, at);
    return;
  }
  const TileShape shape(m.kind, m.group_rows);
  for (int k0 = 0; k0 < m.cols; k0 += kTileColumns, at += tile_bytes) {
    for (int k = 0; k < kTileColumns; ++k) {
      const int s = shape.info.scales == 2 ? k / 16 : 0;
      const float scale = LoadScale(shape, at, s, lane);
      const int code = UnpackCode(shape, at + shape.codes_offset(), lane, k);
      const float second = m.kind == PackedKind::kU4Half ? -8.0f : LoadSecond(shape, at, s, lane);
      if (shape.info.second == Second::kMin) {
        out[k0 + k] = scale * static_cast<float>(code) + second;
      } else {
        out[k0 + k] = scale * (static_cast<float>(code) + second);  // the sum is a small whole number: exact
      }
    }
  }
}

}  // namespace dunlin::kernels::cpu
