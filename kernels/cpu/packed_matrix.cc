#include "kernels/cpu/packed_matrix.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/unpack_groups.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels::cpu {
namespace {

bool HasFourBitCodes(PackedKind k) {
  return k == PackedKind::kU4Half || k == PackedKind::kU4HalfMin || k == PackedKind::kU4FloatMin;
}
bool HasHalfScales(PackedKind k) {
  return k == PackedKind::kU4Half || k == PackedKind::kU4HalfMin || k == PackedKind::kS8Half;
}
bool HasMin(PackedKind k) { return k != PackedKind::kU4Half && k != PackedKind::kS8Half; }
int ScalesPerTile(PackedKind k) { return k == PackedKind::kS8FloatMin16 ? 2 : 1; }

size_t ScaleVectorBytes(PackedKind k) { return static_cast<size_t>(kGroupRows) * (HasHalfScales(k) ? 2 : 4); }
size_t CodesOffset(PackedKind k) {
  return ScaleVectorBytes(k) * static_cast<size_t>(ScalesPerTile(k)) * (HasMin(k) ? 2 : 1);
}

void StoreScale(PackedKind kind, uint8_t* vectors, int vector, int lane, float value) {
  uint8_t* at = vectors + static_cast<size_t>(vector) * ScaleVectorBytes(kind);
  if (HasHalfScales(kind)) {
    const uint16_t half = FloatToHalf(value);  // exact: the file stores this scale as a half
    std::memcpy(at + 2 * lane, &half, 2);
  } else {
    std::memcpy(at + 4 * lane, &value, 4);
  }
}

float LoadScale(PackedKind kind, const uint8_t* vectors, int vector, int lane) {
  const uint8_t* at = vectors + static_cast<size_t>(vector) * ScaleVectorBytes(kind);
  if (HasHalfScales(kind)) {
    uint16_t half;
    std::memcpy(&half, at + 2 * lane, 2);
    return HalfToFloat(half);
  }
  float value;
  std::memcpy(&value, at + 4 * lane, 4);
  return value;
}

void StoreGroup(PackedKind kind, const CodeGroup& g, int lane, uint8_t* tile) {
  const int scales = ScalesPerTile(kind);
  for (int s = 0; s < scales; ++s) {
    StoreScale(kind, tile, s, lane, g.scale[s]);
    if (HasMin(kind)) StoreScale(kind, tile, scales + s, lane, g.min[s]);
  }
  uint8_t* codes = tile + CodesOffset(kind) + 4 * lane;
  if (HasFourBitCodes(kind)) {
    for (int k = 0; k < 16; ++k) {
      codes[32 * (k / 4) + k % 4] = static_cast<uint8_t>(g.codes[k] | (g.codes[k + 16] << 4));
    }
  } else {
    for (int k = 0; k < 32; k += 4) std::memcpy(codes + 8 * k, g.codes + k, 4);
  }
}

// Rows [8g, 8g + 8) of a quantised matrix.
void PackQuantizedGroup(DType type, const CpuMatrix& m, int group, const uint8_t* src, size_t row_bytes, uint8_t* out) {
  const DTypeInfo& info = GetDTypeInfo(type);
  const int groups_per_block = info.block_elements / kTileColumns;
  const size_t tile_bytes = TileBytes(m.kind);
  for (int lane = 0; lane < kGroupRows; ++lane) {
    const int row = group * kGroupRows + lane;
    if (row >= m.rows) break;
    const uint8_t* block = src + static_cast<size_t>(row) * row_bytes;
    uint8_t* tile = out;
    for (int k = 0; k < m.cols; k += info.block_elements) {
      for (int i = 0; i < groups_per_block; ++i) {
        StoreGroup(m.kind, UnpackGroup(type, block, i), lane, tile);
        tile += tile_bytes;
      }
      block += info.block_bytes;
    }
  }
}

void PackFloatGroup(const CpuMatrix& m, int group, const uint8_t* src, size_t row_bytes, uint8_t* out) {
  const size_t value_bytes = TileBytes(m.kind) / kGroupRows;
  for (int lane = 0; lane < kGroupRows; ++lane) {
    const int row = group * kGroupRows + lane;
    if (row >= m.rows) break;
    const uint8_t* from = src + static_cast<size_t>(row) * row_bytes;
    uint8_t* to = out + static_cast<size_t>(lane) * value_bytes;
    for (int k = 0; k < m.cols; ++k) {
      std::memcpy(to, from, value_bytes);
      from += value_bytes;
      to += value_bytes * kGroupRows;
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
int UnpackCode(PackedKind kind, const uint8_t* codes, int lane, int k) {
  if (!HasFourBitCodes(kind)) return static_cast<int8_t>(codes[32 * (k / 4) + 4 * lane + k % 4]);
  const int byte = codes[32 * ((k % 16) / 4) + 4 * lane + k % 4];
  return k < 16 ? byte & 15 : byte >> 4;
}

}  // namespace

PackedKind KindFor(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return PackedKind::kU4Half;
    case DType::kQ4_1:
      return PackedKind::kU4HalfMin;
    case DType::kQ4_K:
    case DType::kInt4:
      return PackedKind::kU4FloatMin;
    case DType::kQ8_0:
    case DType::kQ5_0:
    case DType::kIQ4_NL:
      return PackedKind::kS8Half;
    case DType::kQ5_1:
    case DType::kQ5_K:
    case DType::kIQ4_XS:
    case DType::kInt2:
    case DType::kInt3:
    case DType::kInt8:
      return PackedKind::kS8FloatMin;
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kQ6_K:
      return PackedKind::kS8FloatMin16;
    case DType::kF32:
      return PackedKind::kF32;
    case DType::kF16:
      return PackedKind::kF16;
    case DType::kBF16:
      return PackedKind::kBF16;
  }
  CHECK(false) << "no packed form for tensor type id " << static_cast<int32_t>(type);
  return PackedKind::kF32;
}

size_t TileBytes(PackedKind kind) {
  if (kind == PackedKind::kF32) return 4 * kGroupRows;
  if (kind == PackedKind::kF16 || kind == PackedKind::kBF16) return 2 * kGroupRows;
  const size_t code_bytes = static_cast<size_t>(kGroupRows) * kTileColumns / (HasFourBitCodes(kind) ? 2 : 1);
  return CodesOffset(kind) + code_bytes;
}

CpuMatrix PackMatrix(DType type, int rows, int cols, std::span<const uint8_t> src, Arena* arena, ThreadPool* pool) {
  CHECK_GE(rows, 1);
  CHECK_GE(cols, 1);
  const size_t row_bytes = RowBytes(type, cols);
  CHECK_EQ(src.size(), row_bytes * static_cast<size_t>(rows));
  CpuMatrix m;
  m.rows = rows;
  m.cols = cols;
  m.kind = KindFor(type);
  const int tiles = IsQuantized(m.kind) ? cols / kTileColumns : cols;
  m.group_bytes = TileBytes(m.kind) * static_cast<size_t>(tiles);
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
          PackFloatGroup(m, g, src.data(), row_bytes, out);
        }
      }
    }
  });
  return m;
}

void UnpackRow(const CpuMatrix& m, int row, float* out) {
  CHECK_GE(row, 0);
  CHECK_LT(row, m.rows);
  const int lane = row % kGroupRows;
  const uint8_t* at = m.group(row / kGroupRows);
  const size_t tile_bytes = TileBytes(m.kind);
  if (!IsQuantized(m.kind)) {
    at += static_cast<size_t>(lane) * (tile_bytes / kGroupRows);
    for (int k = 0; k < m.cols; ++k, at += tile_bytes) out[k] = UnpackFloat(m.kind, at);
    return;
  }
  const int scales = ScalesPerTile(m.kind);
  for (int k0 = 0; k0 < m.cols; k0 += kTileColumns, at += tile_bytes) {
    for (int k = 0; k < kTileColumns; ++k) {
      const int s = scales == 2 ? k / 16 : 0;
      const float scale = LoadScale(m.kind, at, s, lane);
      const int code = UnpackCode(m.kind, at + CodesOffset(m.kind), lane, k);
      if (m.kind == PackedKind::kU4Half) {
        out[k0 + k] = scale * static_cast<float>(code - 8);
      } else {
        const float product = scale * static_cast<float>(code);
        out[k0 + k] = HasMin(m.kind) ? product + LoadScale(m.kind, at, scales + s, lane) : product;
      }
    }
  }
}

}  // namespace dunlin::kernels::cpu
