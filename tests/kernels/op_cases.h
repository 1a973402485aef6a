// Inputs for the tests of every backend's ops: random weights of every block type, batches over shuffled pages whose
// unused slots are poisoned, and the table of shapes that all backends are tested with.
// Thread-safety: none needed.  Owns: what each struct holds.  Source: ours.
#ifndef DUNLIN_TESTS_KERNELS_OP_CASES_H_
#define DUNLIN_TESTS_KERNELS_OP_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/group_format.h"
#include "kernels/ops.h"
#include "kernels/paged_kv.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels::testing {

inline constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ4_0,   DType::kQ4_1,
                                      DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,   DType::kQ3_K,
                                      DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS,
                                      DType::kInt2, DType::kInt3, DType::kInt4, DType::kInt8,   DType::kE4M3};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float Normal() { return normal_(engine_); }
  double Uniform() { return uniform_(engine_); }
  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  uint8_t Byte() { return static_cast<uint8_t>(engine_() & 255); }
  std::vector<float> Normals(size_t n, float scale = 1.0f) {
    std::vector<float> v(n);
    for (float& x : v) x = scale * Normal();
    return v;
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> normal_;
  std::uniform_real_distribution<double> uniform_;
};

// Byte offsets of a block's f16 scales, -1 = none.
struct ScaleOffsets {
  int scale;
  int min;
};
inline ScaleOffsets ScalesOf(DType type) {
  switch (type) {
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108, -1};
    case DType::kQ6_K:
      return {208, -1};
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    default:
      return {0, -1};
  }
}

// The file bytes of `count` elements: random codes under small scales, or small random floats.
inline std::vector<uint8_t> RandomWeights(DType type, int64_t count, Random* random) {
  std::vector<uint8_t> bytes(RowBytes(type, count));
  const DTypeInfo& info = GetDTypeInfo(type);
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
    uint8_t* block = bytes.data() + at;
    const float value = 0.05f * random->Normal();
    if (type == DType::kF32) {
      std::memcpy(block, &value, 4);
    } else if (type == DType::kF16 || type == DType::kBF16) {
      const uint16_t bits = type == DType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
      std::memcpy(block, &bits, 2);
    } else {
      for (int i = 0; i < info.block_bytes; ++i) block[i] = random->Byte();
      const ScaleOffsets offsets = ScalesOf(type);
      const uint16_t scale = FloatToHalf(0.01f * random->Normal());
      const uint16_t min = FloatToHalf(0.02f * random->Normal());
      std::memcpy(block + offsets.scale, &scale, 2);
      if (offsets.min >= 0) std::memcpy(block + offsets.min, &min, 2);
      if (const int bits = GroupBits(type); bits != 0) block[2] &= static_cast<uint8_t>((1 << bits) - 1);  // the zero
      if (type == DType::kE4M3) {
        for (int i = 2; i < info.block_bytes; ++i) block[i] &= (block[i] & 0x7F) == 0x7F ? 0xFE : 0xFF;  // no NaN
      }
    }
  }
  return bytes;
}

// Weight shapes: odd sizes around the tile's and the block's borders. cols is rounded up to whole blocks of the type.
struct MatrixCase {
  int rows;
  int cols;
};
inline constexpr MatrixCase kMatrixCases[] = {{1, 1}, {17, 31}, {31, 33}, {33, 257}, {257, 64}, {8, 576}, {64, 1536}};

inline int RoundToBlocks(DType type, int cols) {
  const int block = GetDTypeInfo(type).block_elements;
  return (cols + block - 1) / block * block;
}

// Attention shapes.
struct AttentionCase {
  const char* name;
  KvFormat k_format;
  KvFormat v_format;
  int page_tokens;
  int q_heads;
  int kv_heads;
  int head_dim;
  int window;
  int sinks = 0;
  int top_pages = 0;
};
inline constexpr AttentionCase kAttentionCases[] = {
    {"e4m3_smollm", KvFormat::kE4M3, KvFormat::kE4M3, 16, 9, 3, 64, 0},
    {"e4m3_window", KvFormat::kE4M3, KvFormat::kE4M3, 16, 4, 2, 64, 37},
    {"int8", KvFormat::kInt8, KvFormat::kInt8, 16, 8, 2, 64, 0},
    {"f16_pages_of_8", KvFormat::kF16, KvFormat::kF16, 8, 2, 2, 128, 0},
    {"bf16_pages_of_32", KvFormat::kBF16, KvFormat::kBF16, 32, 6, 1, 40, 0},
    {"f32_pages_of_64", KvFormat::kF32, KvFormat::kF32, 64, 4, 4, 8, 300},
    {"mixed_e4m3_f16", KvFormat::kE4M3, KvFormat::kF16, 16, 16, 1, 256, 0},
    {"mixed_int8_e4m3", KvFormat::kInt8, KvFormat::kE4M3, 8, 10, 5, 96, 64},
    // Sinks: inside a page, up to a page's end, across pages and segments; windows within a page (even within eight
    // tokens), of a segment, one less and one more.
    {"sinks_inside_a_page", KvFormat::kE4M3, KvFormat::kE4M3, 16, 9, 3, 64, 37, 3},
    {"sinks_of_one_page", KvFormat::kInt8, KvFormat::kInt8, 16, 4, 2, 64, 256, 16},
    {"sinks_across_pages", KvFormat::kE4M3, KvFormat::kE4M3, 8, 6, 2, 32, 255, 21},
    {"sinks_across_segments", KvFormat::kF16, KvFormat::kF16, 16, 3, 1, 32, 100, 270},
    {"window_in_eight_tokens", KvFormat::kBF16, KvFormat::kBF16, 32, 2, 2, 24, 2, 3},
    {"window_of_one", KvFormat::kF32, KvFormat::kF32, 64, 4, 1, 16, 1, 1},
    {"window_past_a_segment", KvFormat::kE4M3, KvFormat::kE4M3, 64, 4, 4, 16, 257, 255},
    {"top_1", KvFormat::kE4M3, KvFormat::kE4M3, 16, 9, 3, 64, 0, 0, 1},
    {"top_2", KvFormat::kInt8, KvFormat::kE4M3, 16, 4, 2, 32, 0, 0, 2},
    {"top_3", KvFormat::kE4M3, KvFormat::kE4M3, 16, 9, 3, 64, 0, 0, 3},
    {"top_7_of_small_pages", KvFormat::kF16, KvFormat::kF16, 8, 5, 1, 40, 0, 0, 7},
    {"top_5_wide_group", KvFormat::kBF16, KvFormat::kBF16, 32, 20, 1, 48, 0, 0, 5},
    {"top_2_of_large_pages", KvFormat::kF32, KvFormat::kF32, 64, 4, 4, 8, 0, 0, 2},
    {"top_4_window_sinks", KvFormat::kE4M3, KvFormat::kE4M3, 16, 6, 2, 64, 200, 40, 4},
    {"top_2_window_in_a_page", KvFormat::kInt8, KvFormat::kInt8, 16, 4, 1, 32, 5, 35, 2},
    {"top_1000", KvFormat::kE4M3, KvFormat::kE4M3, 16, 9, 3, 64, 0, 0, 1000},
};

// A batch whose sequences live on shuffled pages; everything that no sequence owns is poison (NaN codes, huge scales).
struct PagedBatch {
  PageLayout layout;
  std::vector<uint8_t> memory;
  std::vector<std::vector<int32_t>> tables;
  std::vector<SequenceSlice> slices;
  std::vector<int32_t> positions;
  std::vector<int32_t> token_ids;
  PagedKvView kv;

  BatchView view() const {
    return {static_cast<int32_t>(positions.size()), token_ids.data(), positions.data(), slices};
  }
};

struct SequenceShape {
  int context;
  int rows;
};

inline PagedBatch MakeBatch(const PageLayout& layout, const std::vector<SequenceShape>& sequences, uint64_t page_seed) {
  PagedBatch b;
  b.layout = layout;
  int pages = 3;  // some stay free
  for (const SequenceShape& s : sequences) pages += (s.context + s.rows + layout.page_tokens - 1) / layout.page_tokens;
  std::vector<int32_t> ids(static_cast<size_t>(pages));
  std::iota(ids.begin(), ids.end(), 0);
  Random shuffle(page_seed);
  std::shuffle(ids.begin(), ids.end(), shuffle.engine());
  b.memory.assign(static_cast<size_t>(pages) * layout.page_bytes + 64, 0xFF);
  // Floats start on a multiple of four bytes wherever the vector's memory is.
  b.kv = {b.memory.data(), layout, pages};
  size_t next = 0;
  int row = 0;
  for (const SequenceShape& s : sequences) {
    const int count = (s.context + s.rows + layout.page_tokens - 1) / layout.page_tokens;
    b.tables.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(next),
                          ids.begin() + static_cast<std::ptrdiff_t>(next) + count);
    next += static_cast<size_t>(count);
    b.slices.push_back({row, s.rows, s.context, nullptr});
    for (int i = 0; i < s.rows; ++i) {
      b.positions.push_back(s.context + i);
      b.token_ids.push_back(0);
    }
    row += s.rows;
  }
  for (size_t i = 0; i < b.slices.size(); ++i) b.slices[i].pages = b.tables[i].data();
  return b;
}

// Fills every token that the sequences hold (this step's too) with random K and V, the same for every page order.
inline void FillPages(PagedBatch* b, uint64_t seed) {
  Random random(seed);
  const PageLayout& l = b->layout;
  const size_t width = static_cast<size_t>(l.num_kv_heads) * static_cast<size_t>(l.head_dim);
  for (size_t i = 0; i < b->slices.size(); ++i) {
    for (int t = 0; t < b->slices[i].context_tokens + b->slices[i].num_rows; ++t) {
      uint8_t* page = b->kv.page(b->tables[i][static_cast<size_t>(t / l.page_tokens)]);
      for (int layer = 0; layer < l.num_layers; ++layer) {
        const std::vector<float> k = random.Normals(width), v = random.Normals(width);
        AppendToken(l, page, layer, t % l.page_tokens, k.data(), v.data());
        if (l.has_key_bounds() && (t + 1) % l.page_tokens == 0) WriteKeyBounds(l, page, layer);
      }
    }
  }
}

// Angles of a RoPE with base 10000, for positions below `positions`.
struct RopeAngles {
  std::vector<float> cos;
  std::vector<float> sin;
  RopeTable table;
};
inline RopeAngles MakeRope(int positions, int dims, RopePairing pairing) {
  RopeAngles r;
  for (int p = 0; p < positions; ++p) {
    for (int i = 0; i < dims / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / dims);
      r.cos.push_back(static_cast<float>(std::cos(angle)));
      r.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  r.table = {r.cos.data(), r.sin.data(), dims, pairing};
  return r;
}

}  // namespace dunlin::kernels::testing

#endif  // DUNLIN_TESTS_KERNELS_OP_CASES_H_
