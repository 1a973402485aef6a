// The one description of a KV page: how many bytes it has and where each value and scale lies. Read by the CPU kernels,
// the reference, the runner that owns the memory and the tests. Versioned in kvstore/FORMAT.md.
//
// A page holds `page_tokens` consecutive tokens of one sequence for every layer (page-major). Within a page, layers
// follow each other; within a layer, in the host's order (SlabOrder::kHost):
//     K values  [kv_head][dim][token]     (a broadcast q[d] meets 16 tokens in one load: no horizontal sums)
//     V values  [kv_head][token][dim]
// and in the device's (kDevice) both K and V [kv_head][token][dim], the 16-byte chunks of a token's row permuted by
// SlabChunk, so that a slab copied as it is into shared memory is read without bank conflicts; then in either order
//     K scales  [kv_head][token]
//     V scales  [kv_head][token]
//     K bounds  [kv_head][min, max][dim], only where the layout has them (page selection, attention_mask.h): the range
//               of each channel of the page's keys as they read back, in bfloat16 rounded outward, zero always +0;
//               written when the page's last slot is
// Scale of a value x stored as code c: E4M3: one byte e per (token, head), x = E4M3(c) * 2^(e - 127), e - 127 = the
// smallest exponent with amax / 2^(e-127) <= 448 (127 for a zero vector), code rounded to nearest even, saturating at
// 448, never NaN. INT8: float32 s = amax / 127 (1 for a zero vector), x = c * s, c rounded to nearest even and clamped
// to +-127. F16/BF16/F32: no scale.
//
// Thread-safety: plain values and pure functions.  Errors: CHECK on impossible shapes (validated by the caller before).
// Source: ours; the rounding rules are those of tests/golden/fp8.
#ifndef DUNLIN_KERNELS_PAGED_KV_H_
#define DUNLIN_KERNELS_PAGED_KV_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/host_device.h"

namespace dunlin::kernels {

enum class KvFormat : uint8_t { kF32, kF16, kBF16, kE4M3, kInt8 };

// Bytes of one stored value, and of one (token, head) scale (0 = the format has none).
DUNLIN_HOST_DEVICE constexpr size_t KvValueBytes(KvFormat f) {
  return f == KvFormat::kF32 ? 4 : (f == KvFormat::kF16 || f == KvFormat::kBF16) ? 2 : 1;
}
DUNLIN_HOST_DEVICE constexpr size_t KvScaleBytes(KvFormat f) {
  return f == KvFormat::kE4M3 ? 1 : f == KvFormat::kInt8 ? 4 : 0;
}

enum class SlabOrder : uint8_t { kHost, kDevice };

// kDevice: where chunk `chunk` of a token's row lies in that row. row_chunks: 16-byte chunks of a row.
// Rows of eight or more chunks cover all 32 banks, so the token's low bits spread the rows over the chunks. Of rows of
// four chunks two lie side by side; flipping one bit of every other four tokens spreads them for the readers of
// cuda/attention_tile.h (whose test replays them). A permutation of the row in every case.
DUNLIN_HOST_DEVICE constexpr int SlabChunk(int chunk, int token, int row_chunks) {
  if (row_chunks % 8 == 0) return chunk ^ (token & 7);
  if (row_chunks % 4 == 0) return chunk ^ ((token >> 1) & 2);
  return chunk;
}

struct PageLayout {
  int page_tokens = 16;
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  KvFormat k_format = KvFormat::kE4M3;
  KvFormat v_format = KvFormat::kE4M3;
  SlabOrder order = SlabOrder::kHost;

  // Byte offsets within a layer's run, and totals; filled by Create.
  size_t v_offset = 0;
  size_t k_scale_offset = 0;
  size_t v_scale_offset = 0;
  size_t k_bounds_offset = 0;  // 0 = the pages have no key bounds
  size_t layer_bytes = 0;      // multiple of 64
  size_t page_bytes = 0;       // multiple of 256

  static PageLayout Create(int page_tokens, int num_layers, int num_kv_heads, int head_dim, KvFormat k_format,
                           KvFormat v_format, bool key_bounds = false, SlabOrder order = SlabOrder::kHost);

  size_t LayerOffset(int layer) const { return static_cast<size_t>(layer) * layer_bytes; }
  // Offsets from the start of the page. K: the slab of a head; in the host's order its element (dim 0, token 0).
  size_t KOffset(int layer, int head) const {
    return LayerOffset(layer) + static_cast<size_t>(head) * HeadValues() * KvValueBytes(k_format);
  }
  // V likewise.
  size_t VOffset(int layer, int head) const {
    return LayerOffset(layer) + v_offset + static_cast<size_t>(head) * HeadValues() * KvValueBytes(v_format);
  }
  // Scale of (head, token 0); consecutive tokens are adjacent.
  size_t KScaleOffset(int layer, int head) const {
    return LayerOffset(layer) + k_scale_offset +
           static_cast<size_t>(head) * static_cast<size_t>(page_tokens) * KvScaleBytes(k_format);
  }
  size_t VScaleOffset(int layer, int head) const {
    return LayerOffset(layer) + v_scale_offset +
           static_cast<size_t>(head) * static_cast<size_t>(page_tokens) * KvScaleBytes(v_format);
  }
  // Bounds of one head: the minima [head_dim], then the maxima.
  bool has_key_bounds() const { return k_bounds_offset > 0; }
  size_t HeadBoundsBytes() const { return has_key_bounds() ? static_cast<size_t>(head_dim) * 4 : 0; }
  size_t KBoundsOffset(int layer, int head) const {
    return LayerOffset(layer) + k_bounds_offset + static_cast<size_t>(head) * HeadBoundsBytes();
  }
  // Byte of a value in its slab, for any order.
  DUNLIN_HOST_DEVICE size_t KIndex(int token, int dim) const {
    return order == SlabOrder::kHost
               ? (static_cast<size_t>(dim) * static_cast<size_t>(page_tokens) + static_cast<size_t>(token)) *
                     KvValueBytes(k_format)
               : RowIndex(token, dim, KvValueBytes(k_format));
  }
  DUNLIN_HOST_DEVICE size_t VIndex(int token, int dim) const { return RowIndex(token, dim, KvValueBytes(v_format)); }
  DUNLIN_HOST_DEVICE size_t RowIndex(int token, int dim, size_t value_bytes) const {
    const size_t row_bytes = static_cast<size_t>(head_dim) * value_bytes;
    size_t at = static_cast<size_t>(dim) * value_bytes;
    if (order == SlabOrder::kDevice) {
      at = static_cast<size_t>(SlabChunk(static_cast<int>(at / 16), token, static_cast<int>(row_bytes / 16))) * 16 +
           at % 16;
    }
    return static_cast<size_t>(token) * row_bytes + at;
  }
  // Values of one head in one page, K or V.
  size_t HeadValues() const { return static_cast<size_t>(page_tokens) * static_cast<size_t>(head_dim); }
  // Bytes of K, V and scales that attention reads per cached token and layer.
  size_t TokenLayerBytes() const {
    return static_cast<size_t>(num_kv_heads) *
           (static_cast<size_t>(head_dim) * (KvValueBytes(k_format) + KvValueBytes(v_format)) + KvScaleBytes(k_format) +
            KvScaleBytes(v_format));
  }
  // Bytes that appending tokens at these positions of their sequences writes per layer, bounds included.
  uint64_t AppendBytes(std::span<const int32_t> positions) const;
};

// The page arena of one device. Borrows the memory. page(i) = base + i * layout.page_bytes.
struct PagedKvView {
  uint8_t* base = nullptr;
  PageLayout layout;
  int32_t num_pages = 0;
  uint8_t* page(int32_t id) const { return base + static_cast<size_t>(id) * layout.page_bytes; }
};

// ---- Scalar codecs: the definition. Fast kernels must give the same bits. ----

// E4M3FN. Decode is exact; NaN codes (0x7F, 0xFF) give NaN. Encode rounds to nearest even, saturates to +-448
// (infinities too), keeps the sign of zero; NaN gives 0x7F.
float E4M3ToFloat(uint8_t code);
uint8_t FloatToE4M3(float value);

// Quantise one head's vector. Returns how many values saturated: non-finite inputs, which are stored as +-448 or 0
// (NaN). codes: [x.size()] with the given stride in bytes between consecutive values. *scale: UE8M0 byte.
int QuantizeE4M3(std::span<const float> x, uint8_t* codes, size_t stride, uint8_t* scale);
// *scale: float32.
int QuantizeInt8(std::span<const float> x, int8_t* codes, size_t stride, float* scale);

// Writes one token's K and V of one layer into its slot of a page, converting through the page's formats.
// k, v: [num_kv_heads, head_dim]. slot: 0 <= slot < page_tokens. Returns the number of saturated values.
int AppendToken(const PageLayout& layout, uint8_t* page, int layer, int slot, const float* k, const float* v);

// Reads back one token's K or V vector of one head as attention sees it (dequantised). out: [head_dim].
void ReadKey(const PageLayout& layout, const uint8_t* page, int layer, int head, int slot, float* out);
void ReadValue(const PageLayout& layout, const uint8_t* page, int layer, int head, int slot, float* out);

// Writes the key bounds of a full page of one layer, from its stored keys; a NaN key value counts for nothing.
void WriteKeyBounds(const PageLayout& layout, uint8_t* page, int layer);
// One head's bounds. min, max: [head_dim].
void ReadKeyBounds(const PageLayout& layout, const uint8_t* page, int layer, int head, float* min, float* max);
// Stores one head's bounds, rounding outward.
void StoreKeyBounds(const PageLayout& layout, uint8_t* page, int layer, int head, const float* min, const float* max);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_PAGED_KV_H_
