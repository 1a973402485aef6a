#include "kernels/cuda/matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "base/check.h"
#include "kernels/cuda/matrix_tile.h"
#include "kernels/group_format.h"
#include "kernels/quant_format.h"
#include "kernels/unpack_groups.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr size_t kChunkBytes = size_t{32} << 20;  // packed at a time, so that the host holds no second model

// What becomes of a type's blocks.
struct Rule {
  CudaKind kind;
  CudaSecond second = CudaSecond::kNone;
  int code_offset = 0;  // codes are stored less this
  int factor_cols = 0;
  int scale_at = 0;   // bytes of the f16 scale in a block
  int second_at = 0;  // of the f16 min
};

Rule RuleOf(DType type) {
  switch (type) {
    case DType::kQ4_0:
      return {.kind = CudaKind::kW4, .code_offset = -8};
    case DType::kQ4_1:
      return {.kind = CudaKind::kW4, .second = CudaSecond::kMin, .second_at = 2};
    case DType::kQ5_1:
      return {.kind = CudaKind::kW8, .second = CudaSecond::kMin, .second_at = 2};
    case DType::kQ5_0:
    case DType::kQ8_0:
    case DType::kIQ4_NL:
      return {.kind = CudaKind::kW8};
    case DType::kQ2_K:
      return {.kind = CudaKind::kW2, .second = CudaSecond::kMin, .factor_cols = 16, .scale_at = 80, .second_at = 82};
    case DType::kQ3_K:
      return {.kind = CudaKind::kW4, .code_offset = -4, .factor_cols = 16, .scale_at = 108};
    case DType::kQ4_K:
      return {.kind = CudaKind::kW4, .second = CudaSecond::kMin, .factor_cols = 32, .second_at = 2};
    case DType::kQ5_K:
      return {.kind = CudaKind::kW8, .second = CudaSecond::kMin, .factor_cols = 32, .second_at = 2};
    case DType::kQ6_K:
      return {.kind = CudaKind::kW8, .factor_cols = 16, .scale_at = 208};
    case DType::kIQ4_XS:
      return {.kind = CudaKind::kW8, .factor_cols = 32};
    case DType::kInt2:
      return {.kind = CudaKind::kW2, .second = CudaSecond::kOffset};
    case DType::kInt3:
    case DType::kInt4:
      return {.kind = CudaKind::kW4, .second = CudaSecond::kOffset};
    case DType::kInt8:
      return {.kind = CudaKind::kW8, .second = CudaSecond::kOffset};
    case DType::kE4M3:
      return {.kind = CudaKind::kE4M3};
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return {.kind = CudaKind::kF16};
  }
  CHECK(false) << "no packed form for tensor type id " << static_cast<int32_t>(type);
  return {};
}

// A matrix in the file's blocks.
struct Source {
  DType type;
  Rule rule;
  const uint8_t* bytes;
  size_t row_bytes;
  int block_cols;
  int block_bytes;
  const uint8_t* row(int r) const { return bytes + static_cast<size_t>(r) * row_bytes; }
};

// The widest group whose blocks have the same first header_bytes everywhere.
int WidestGroup(const Source& src, const CudaMatrix& m, size_t header_bytes) {
  int widest = kUnitColumns;
  for (int r = 0; r < m.rows && widest > 32; ++r) {
    const uint8_t* row = src.row(r);
    for (int b = 0; b < m.cols / 32; ++b) {
      const auto at = [&](int block) { return row + block * src.block_bytes; };
      while (widest > 32 && std::memcmp(at(b), at(b / (widest / 32) * (widest / 32)), header_bytes) != 0) widest /= 2;
    }
  }
  return widest;
}

// True where all blocks of a kInt* matrix have the same zero.
bool OneZero(const Source& src, const CudaMatrix& m) {
  for (int r = 0; r < m.rows; ++r) {
    for (int b = 0; b < m.cols / 32; ++b) {
      if (src.row(r)[b * src.block_bytes + 2] != src.bytes[2]) return false;
    }
  }
  return true;
}

void PutHalf(uint8_t* at, uint16_t half) { std::memcpy(at, &half, 2); }

uint16_t HalfAt(const uint8_t* block, int at) { return static_cast<uint16_t>(block[at] | block[at + 1] << 8); }

// scale = unit * factor in f32, exactly; what factor was it?
uint8_t FactorOf(float scale, uint16_t unit) {
  const float factor = scale / HalfToFloat(unit);
  return std::isfinite(factor) ? static_cast<uint8_t>(static_cast<int>(factor)) : 0;
}

// One row's scales of the block of 32 columns at `col`.
void PackScales(const Source& src, const CudaMatrix& m, const CodeGroup& g, const uint8_t* block, int row, int col,
                uint8_t* tile) {
  uint8_t* at = tile + PlaceOfScale(m, row, col);
  const uint16_t scale = HalfAt(block, src.rule.scale_at);
  PutHalf(at, scale);
  if (m.second == CudaSecond::kOffset) PutHalf(at + 4, FloatToHalf(g.offset));
  if (m.second == CudaSecond::kMin) PutHalf(at + 4, HalfAt(block, src.rule.second_at));
  if (m.factor_cols == 0) return;
  const auto minus_min = static_cast<uint16_t>(HalfAt(block, src.rule.second_at) ^ 0x8000u);  // K-quants subtract it
  if (m.second == CudaSecond::kMin) PutHalf(at + 4, minus_min);
  for (int c = 0; c < 32; c += m.factor_cols) {
    uint8_t* factor = tile + PlaceOfFactor(m, row, col + c);
    *factor = FactorOf(g.scale[c / 16], scale);
    if (m.second == CudaSecond::kMin) factor[MinFactorDistance(m)] = FactorOf(g.min[c / 16], minus_min);
  }
}

void PackCodesRow(const Source& src, const CudaMatrix& m, int row, uint8_t* tile) {
  const int less = src.type == DType::kQ3_K ? src.rule.code_offset : 0;  // Q4_0 comes as 0…15
  for (int col = 0; col < m.cols; col += 32) {
    const uint8_t* block = src.row(row) + col / src.block_cols * src.block_bytes;
    const CodeGroup g = UnpackGroup(src.type, block, col % src.block_cols / 32);
    PackScales(src, m, g, block, row, col, tile);
    for (int c = 0; c < 32; c += 4) {  // four columns lie in four bytes
      const CodePlaceInTile place = PlaceOfCode(m, row, col + c);
      for (int i = 0; i < 4; ++i) {
        const int code = g.codes[c + i] - less;
        tile[place.byte + i] = static_cast<uint8_t>(tile[place.byte + i] | (code & 0xFF) << place.bit);
      }
    }
  }
}

void PackE4M3Row(const Source& src, const CudaMatrix& m, int row, uint8_t* tile) {
  for (int col = 0; col < m.cols; col += 32) {
    const uint8_t* block = src.row(row) + col / 32 * src.block_bytes;
    std::memcpy(tile + PlaceOfScale(m, row, col), block, 2);
    for (int c = 0; c < 32; c += 4) std::memcpy(tile + PlaceOfCode(m, row, col + c).byte, block + 2 + c, 4);
  }
}

// F16 stays as it is. F32 and BF16 are scaled to a largest value of 2^14 to 2^15, so that what f16 cannot hold is
// 2^-38 of it at most.
void PackHalfRow(const Source& src, const CudaMatrix& m, int row, uint8_t* tile, float* factor) {
  std::vector<float> values(static_cast<size_t>(m.cols));
  DequantizeRow(src.type, {src.row(row), src.row_bytes}, values);
  int exponent = 0;
  if (src.type != DType::kF16) {
    float largest = 0.0f;
    for (const float v : values) largest = std::max(largest, std::isfinite(v) ? std::fabs(v) : 0.0f);
    if (largest > 0.0f) exponent = std::clamp(std::ilogb(largest) - 14, -126, 126);
  }
  *factor = std::ldexp(1.0f, exponent);
  const float unit = std::ldexp(1.0f, -exponent);
  for (int c = 0; c < m.cols; c += 2) {  // two columns lie side by side
    uint8_t* at = tile + PlaceOfCode(m, row, c).byte;
    PutHalf(at, FloatToHalf(values[static_cast<size_t>(c)] * unit));
    if (c + 1 < m.cols) PutHalf(at + 2, FloatToHalf(values[static_cast<size_t>(c) + 1] * unit));
  }
}

// The rows of one tile. factors: of the rows, where the kind has them.
void PackTile(const Source& src, const CudaMatrix& m, int index, uint8_t* tile, float* factors) {
  for (int row = index * kTileRows; row < std::min(m.rows, (index + 1) * kTileRows); ++row) {
    if (m.kind == CudaKind::kF16) {
      PackHalfRow(src, m, row, tile, &factors[row]);
    } else if (m.kind == CudaKind::kE4M3) {
      PackE4M3Row(src, m, row, tile);
    } else {
      PackCodesRow(src, m, row, tile);
    }
  }
}

// work(0) … work(count - 1) on as many threads as the machine has and the count is worth.
template <typename Work>
void ForAll(int count, Work work) {
  constexpr int kPerThread = 8;
  const int machine = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::atomic<int> next = 0;
  const auto run = [&] {
    for (int i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < std::min(machine, count / kPerThread); ++i) others.emplace_back(run);
  run();
}

CudaMatrix Shape(const Source& src, int rows, int cols) {
  CudaMatrix m;
  m.rows = rows;
  m.cols = cols;
  m.kind = src.rule.kind;
  m.second = src.rule.second;
  m.factor_cols = src.rule.factor_cols;
  m.code_offset = static_cast<int8_t>(src.rule.code_offset);
  if (m.second == CudaSecond::kOffset && OneZero(src, m)) {
    const int offset = static_cast<int>(UnpackGroup(src.type, src.bytes, 0).offset);
    m.code_offset = static_cast<int8_t>(offset);
    if (m.code_offset == offset) m.second = CudaSecond::kNone;  // INT8's may be 128
  }
  if (m.kind != CudaKind::kF16 && m.factor_cols == 0) {
    m.group_cols = WidestGroup(src, m, m.second == CudaSecond::kMin ? 4 : GroupBits(src.type) != 0 ? 3 : 2);
  }
  m.bytes = static_cast<uint64_t>(m.row_factors_at());
  if (m.kind == CudaKind::kF16) m.bytes += static_cast<uint64_t>(m.row_tiles()) * kTileRows * sizeof(float);
  return m;
}

}  // namespace

bool PackMatrix(DType type, int rows, int cols, std::span<const uint8_t> src, WeightArena* arena, CudaMatrix* matrix) {
  CHECK_GE(rows, 1);
  CHECK_GE(cols, 1);
  const size_t row_bytes = RowBytes(type, cols);
  CHECK_EQ(src.size(), row_bytes * static_cast<size_t>(rows));
  const DTypeInfo& info = GetDTypeInfo(type);
  const Source source = {type, RuleOf(type), src.data(), row_bytes, info.block_elements, info.block_bytes};
  CudaMatrix m = Shape(source, rows, cols);
  uint8_t* data = arena->Add(m.bytes);
  if (data == nullptr) return false;
  m.data = data;
  const auto tile_bytes = static_cast<size_t>(m.row_tile_bytes());
  const int chunk_tiles = static_cast<int>(std::max<size_t>(1, kChunkBytes / tile_bytes));
  std::vector<float> factors(static_cast<size_t>(m.row_tiles()) * kTileRows, 0.0f);
  std::vector<uint8_t> chunk;
  for (int first = 0; first < m.row_tiles(); first += chunk_tiles) {
    const int tiles = std::min(chunk_tiles, m.row_tiles() - first);
    chunk.assign(static_cast<size_t>(tiles) * tile_bytes, 0);
    ForAll(tiles, [&](int i) {
      PackTile(source, m, first + i, chunk.data() + static_cast<size_t>(i) * tile_bytes, factors.data());
    });
    arena->device()->CopyToDevice(data + static_cast<size_t>(first) * tile_bytes, chunk.data(), chunk.size());
    arena->device()->Synchronize();  // the chunk is used again
  }
  if (m.kind == CudaKind::kF16) {
    arena->device()->CopyToDevice(data + m.row_factors_at(), factors.data(), factors.size() * sizeof(float));
    arena->device()->Synchronize();
  }
  *matrix = m;
  return true;
}

void UnpackRow(const CudaMatrix& matrix, const uint8_t* host_bytes, int row, float* out) {
  CHECK_GE(row, 0);
  CHECK_LT(row, matrix.rows);
  for (int c = 0; c < matrix.cols; ++c) out[c] = MatrixValue(matrix, host_bytes, row, c);
}

}  // namespace dunlin::kernels::cuda
