#include "kernels/paged_kv.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/kv_rounding.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels {
namespace {

constexpr float kE4M3Max = 448.0f;

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// One value to and from 16- and 32-bit formats; `dst`/`src` point at the value itself.
void StorePlain(KvFormat format, float value, uint8_t* dst) {
  if (format == KvFormat::kF32) {
    std::memcpy(dst, &value, sizeof value);
  } else {
    const uint16_t bits = format == KvFormat::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
    std::memcpy(dst, &bits, sizeof bits);
  }
}

float LoadPlain(KvFormat format, const uint8_t* src) {
  if (format == KvFormat::kF32) {
    float value;
    std::memcpy(&value, src, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, src, sizeof bits);
  return format == KvFormat::kF16 ? HalfToFloat(bits) : Bfloat16ToFloat(bits);
}

// Writes x with `stride` values between consecutive elements. data and scale point at the slot's own first value and
// scale.
int StoreVector(KvFormat format, std::span<const float> x, const KvVectorRounding& rounding, uint8_t* data,
                size_t stride, uint8_t* scale) {
  if (KvScaleBytes(format) > 0) return QuantizeHead(format, x, rounding, data, stride, scale);
  const size_t bytes = KvValueBytes(format);
  for (size_t i = 0; i < x.size(); ++i) StorePlain(format, x[i], data + i * stride * bytes);
  return 0;
}

// The device's order: calls f(byte of the row, byte of the slab) for each 16-byte chunk of a token's row.
template <typename F>
void ForEachChunk(const PageLayout& layout, size_t value_bytes, int token, const F& f) {
  const size_t row_bytes = static_cast<size_t>(layout.head_dim) * value_bytes;
  for (size_t at = 0; at < row_bytes; at += 16) {
    f(at, layout.RowIndex(token, static_cast<int>(at / value_bytes), value_bytes));
  }
}

// The part of a layer's rounding that is one head's.
KvVectorRounding OfHead(const KvVectorRounding& all, size_t head, size_t dim) {
  KvVectorRounding one = all;
  if (one.centre != nullptr) one.centre += head * dim;
  if (one.order != nullptr) one.order += head * dim;
  if (one.feedback != nullptr) one.feedback += head * KvFeedbackValues(static_cast<int>(dim));
  return one;
}

void LoadVector(KvFormat format, const uint8_t* data, size_t stride, const uint8_t* scale, std::span<float> out) {
  const size_t bytes = KvValueBytes(format);
  float s = 1.0f;
  if (format == KvFormat::kE4M3) s = std::ldexp(1.0f, int{*scale} - 127);
  if (format == KvFormat::kInt8) std::memcpy(&s, scale, sizeof s);
  for (size_t i = 0; i < out.size(); ++i) {
    const uint8_t* at = data + i * stride * bytes;
    if (format == KvFormat::kE4M3) {
      out[i] = E4M3ToFloat(*at) * s;
    } else if (format == KvFormat::kInt8) {
      out[i] = static_cast<float>(static_cast<int8_t>(*at)) * s;
    } else {
      out[i] = LoadPlain(format, at);
    }
  }
}

// One slot of a slab. first, stride: of the host's order; scales: of the head.
void LoadSlot(const PageLayout& layout, KvFormat format, const uint8_t* slab, size_t first, size_t stride,
              const uint8_t* scales, int slot, float* out) {
  const auto dim = static_cast<size_t>(layout.head_dim);
  const uint8_t* scale = scales + static_cast<size_t>(slot) * KvScaleBytes(format);
  if (layout.order == SlabOrder::kHost) {
    LoadVector(format, slab + first, stride, scale, {out, dim});
    return;
  }
  std::vector<uint8_t> row(dim * KvValueBytes(format));
  ForEachChunk(layout, KvValueBytes(format), slot,
               [&](size_t at, size_t from) { std::memcpy(row.data() + at, slab + from, 16); });
  LoadVector(format, row.data(), 1, scale, {out, dim});
}

// The bfloat16 next to `value` in its direction: at or below it for a minimum, at or above it for a maximum.
uint16_t RoundOutward(float value, bool is_max) {
  const auto bits = std::bit_cast<uint32_t>(value + 0.0f);  // -0 becomes +0: equal keys give equal bytes
  const bool grows = (bits & 0xFFFFu) != 0 && std::signbit(value) != is_max;
  return static_cast<uint16_t>((bits >> 16) + (grows ? 1u : 0u));
}

// NaN becomes 0 and infinities the largest finite value, so that one bad activation cannot poison the cache.
float Finite(float v, int* saturated) {
  if (std::isfinite(v)) return v;
  ++*saturated;
  return std::isnan(v) ? 0.0f : std::copysign(std::numeric_limits<float>::max(), v);
}

}  // namespace

PageLayout PageLayout::Create(int page_tokens, int num_layers, int num_kv_heads, int head_dim, KvFormat k_format,
                              KvFormat v_format, bool key_bounds, SlabOrder order) {
  CHECK(page_tokens > 0 && num_layers > 0 && num_kv_heads > 0 && head_dim > 0)
      << page_tokens << ' ' << num_layers << ' ' << num_kv_heads << ' ' << head_dim;
  PageLayout l;
  l.page_tokens = page_tokens;
  l.num_layers = num_layers;
  l.num_kv_heads = num_kv_heads;
  l.head_dim = head_dim;
  l.k_format = k_format;
  l.v_format = v_format;
  l.order = order;
  if (order == SlabOrder::kDevice) {
    CHECK(static_cast<size_t>(head_dim) * KvValueBytes(k_format) % 16 == 0 &&
          static_cast<size_t>(head_dim) * KvValueBytes(v_format) % 16 == 0)
        << "head_dim " << head_dim << ": a row of the device's order is whole 16-byte chunks";
  }
  const size_t values = static_cast<size_t>(num_kv_heads) * l.HeadValues();
  const size_t scales = static_cast<size_t>(num_kv_heads) * static_cast<size_t>(page_tokens);
  // Every section starts on 64 bytes, so that vector loads never straddle two sections' cache lines.
  l.v_offset = RoundUp(values * KvValueBytes(k_format), 64);
  l.k_scale_offset = RoundUp(l.v_offset + values * KvValueBytes(v_format), 64);
  l.v_scale_offset = RoundUp(l.k_scale_offset + scales * KvScaleBytes(k_format), 16);
  l.layer_bytes = RoundUp(l.v_scale_offset + scales * KvScaleBytes(v_format), 64);
  if (key_bounds) {
    l.k_bounds_offset = l.layer_bytes;
    l.layer_bytes = RoundUp(l.k_bounds_offset + static_cast<size_t>(num_kv_heads) * l.HeadBoundsBytes(), 64);
  }
  l.page_bytes = RoundUp(static_cast<size_t>(num_layers) * l.layer_bytes, 256);
  return l;
}

uint64_t PageLayout::AppendBytes(std::span<const int32_t> positions) const {
  const auto last_slots = std::count_if(positions.begin(), positions.end(),
                                        [this](int32_t position) { return (position + 1) % page_tokens == 0; });
  return positions.size() * TokenLayerBytes() +
         static_cast<uint64_t>(last_slots) * static_cast<size_t>(num_kv_heads) * HeadBoundsBytes();
}

float E4M3ToFloat(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

uint8_t FloatToE4M3(float value) {
  if (std::isnan(value)) return 0x7F;
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  const float a = std::fabs(value);
  if (a > kE4M3Max) return sign | 0x7E;
  if (a < 0x1p-6f) {  // subnormal: a multiple of 2^-9; 8 of them are the smallest normal, whose code is 8
    return static_cast<uint8_t>(sign | static_cast<int>(std::nearbyint(a * 0x1p9f)));
  }
  // Round the float's 23-bit mantissa to 3 bits, to even; a carry runs into the exponent as it should.
  uint32_t bits = std::bit_cast<uint32_t>(a);
  bits += 0x7FFFF + ((bits >> 20) & 1);
  const uint32_t code = (bits >> 20) - ((127 - 7) << 3);
  return static_cast<uint8_t>(sign | std::min<uint32_t>(code, 0x7E));
}

int QuantizeE4M3(std::span<const float> x, uint8_t* codes, size_t stride, uint8_t* scale) {
  int saturated = 0;
  float amax = 0.0f;
  for (const float v : x) amax = std::max(amax, std::isfinite(v) ? std::fabs(v) : 0.0f);
  int e = 0;
  if (amax > 0.0f) {
    // amax = m 2^e, m in [0.5, 1); 448 = 0.875 * 2^9.
    const float m = std::frexp(amax, &e);
    e -= m <= 0.875f ? 9 : 8;
    e = std::clamp(e, -127, 127);
  }
  *scale = static_cast<uint8_t>(e + 127);
  const float inverse = std::ldexp(1.0f, -e);
  for (size_t i = 0; i < x.size(); ++i) codes[i * stride] = FloatToE4M3(Finite(x[i], &saturated) * inverse);
  return saturated;
}

int QuantizeInt8(std::span<const float> x, int8_t* codes, size_t stride, float* scale) {
  int saturated = 0;
  float amax = 0.0f;
  for (const float v : x) amax = std::max(amax, std::isfinite(v) ? std::fabs(v) : 0.0f);
  *scale = amax / 127.0f;
  if (*scale == 0.0f) *scale = 1.0f;  // a zero vector, or one so small that its scale underflows
  for (size_t i = 0; i < x.size(); ++i) {
    const float v = Finite(x[i], &saturated);
    const float q = std::nearbyint(v / *scale);
    codes[i * stride] = static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f));
  }
  return saturated;
}

int AppendToken(const PageLayout& layout, uint8_t* page, int layer, int slot, const float* k, const float* v) {
  return AppendToken(layout, page, layer, slot, k, v, KvRounding{});
}

int AppendToken(const PageLayout& layout, uint8_t* page, int layer, int slot, const float* k, const float* v,
                const KvRounding& rounding) {
  DCHECK(layer >= 0 && layer < layout.num_layers && slot >= 0 && slot < layout.page_tokens);
  const auto dim = static_cast<size_t>(layout.head_dim);
  const auto token = static_cast<size_t>(slot);
  int saturated = 0;
  std::vector<uint8_t> row(layout.order == SlabOrder::kDevice ? dim * sizeof(float) : 0);
  // Of one of K and V; stride: in values, of the host's order.
  const auto store = [&](KvFormat format, const float* x, const KvVectorRounding& of, uint8_t* slab, size_t first,
                         size_t stride, uint8_t* scale) {
    if (layout.order == SlabOrder::kHost) {
      saturated += StoreVector(format, {x, dim}, of, slab + first, stride, scale);
      return;
    }
    saturated += StoreVector(format, {x, dim}, of, row.data(), 1, scale);
    ForEachChunk(layout, KvValueBytes(format), slot,
                 [&](size_t at, size_t to) { std::memcpy(slab + to, row.data() + at, 16); });
  };
  for (int head = 0; head < layout.num_kv_heads; ++head) {
    const size_t at = static_cast<size_t>(head) * dim;
    store(layout.k_format, k + at, OfHead(rounding.k, static_cast<size_t>(head), dim),
          page + layout.KOffset(layer, head), layout.KIndex(slot, 0), static_cast<size_t>(layout.page_tokens),
          page + layout.KScaleOffset(layer, head) + token * KvScaleBytes(layout.k_format));
    store(layout.v_format, v + at, OfHead(rounding.v, static_cast<size_t>(head), dim),
          page + layout.VOffset(layer, head), layout.VIndex(slot, 0), 1,
          page + layout.VScaleOffset(layer, head) + token * KvScaleBytes(layout.v_format));
  }
  return saturated;
}

void ReadKey(const PageLayout& layout, const uint8_t* page, int layer, int head, int slot, float* out) {
  LoadSlot(layout, layout.k_format, page + layout.KOffset(layer, head), layout.KIndex(slot, 0),
           static_cast<size_t>(layout.page_tokens), page + layout.KScaleOffset(layer, head), slot, out);
}

void ReadKeyBounds(const PageLayout& layout, const uint8_t* page, int layer, int head, float* min, float* max) {
  DCHECK(layout.has_key_bounds());
  const auto dim = static_cast<size_t>(layout.head_dim);
  const uint8_t* at = page + layout.KBoundsOffset(layer, head);
  LoadVector(KvFormat::kBF16, at, 1, nullptr, {min, dim});
  LoadVector(KvFormat::kBF16, at + 2 * dim, 1, nullptr, {max, dim});
}

void StoreKeyBounds(const PageLayout& layout, uint8_t* page, int layer, int head, const float* min, const float* max) {
  DCHECK(layout.has_key_bounds());
  uint8_t* at = page + layout.KBoundsOffset(layer, head);
  for (int d = 0; d < layout.head_dim; ++d) {
    const uint16_t low = RoundOutward(min[d], /*is_max=*/false), high = RoundOutward(max[d], /*is_max=*/true);
    std::memcpy(at + 2 * d, &low, 2);
    std::memcpy(at + 2 * (layout.head_dim + d), &high, 2);
  }
}

void WriteKeyBounds(const PageLayout& layout, uint8_t* page, int layer) {
  const auto dim = static_cast<size_t>(layout.head_dim);
  std::vector<float> key(dim), min(dim), max(dim);
  for (int head = 0; head < layout.num_kv_heads; ++head) {
    std::fill(min.begin(), min.end(), std::numeric_limits<float>::infinity());
    std::fill(max.begin(), max.end(), -std::numeric_limits<float>::infinity());
    for (int slot = 0; slot < layout.page_tokens; ++slot) {
      ReadKey(layout, page, layer, head, slot, key.data());
      for (size_t d = 0; d < dim; ++d) {
        if (key[d] < min[d]) min[d] = key[d];
        if (key[d] > max[d]) max[d] = key[d];
      }
    }
    StoreKeyBounds(layout, page, layer, head, min.data(), max.data());
  }
}

void ReadValue(const PageLayout& layout, const uint8_t* page, int layer, int head, int slot, float* out) {
  LoadSlot(layout, layout.v_format, page + layout.VOffset(layer, head), layout.VIndex(slot, 0), 1,
           page + layout.VScaleOffset(layer, head), slot, out);
}

}  // namespace dunlin::kernels
