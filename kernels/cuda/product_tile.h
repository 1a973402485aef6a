// One row tile of a matrix (16 outputs) times a tile of prepared rows (8 kN of them), unit by unit of 128 columns: the
// inner part of products.h's kernels. A warp holds the sums as the tensor core does: y[n][c], rows g and g + 8, tokens
// 8n + 2t and 8n + 2t + 1. The order of the additions is the columns' order, whatever kN is and wherever the
// activations lie, so a row's bits do not depend on either.
//
//   codes   per block of 32 columns (16 with factors of 16): y += d_in * (d * acc + min * code_sum), acc exact
//   E4M3    per block: y += d * acc             F16  y is the accumulator itself
//
// Thread-safety: device code.  Owns: nothing.  Errors: none.  Source: ours; fragments as PTX ISA 8.x.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_TILE_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_TILE_H_

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/matrix.h"

namespace dunlin::kernels::cuda {

// A tile of activations from one unit's first column on: of token i the codes (or halves) at values + i * pitch, the
// scales at scales + i * scale_pitch. Tokens from `count` on are zeros that nobody reads; staged tiles have them.
struct TokenTile {
  const uint8_t* values;
  const uint8_t* scales;
  int64_t pitch;
  int64_t scale_pitch;
  int count;
};

struct alignas(8) Pair {
  uint32_t x, y;
};

template <bool kStaged>
DUNLIN_DEV Pair LoadPair(const uint8_t* at, bool valid) {
  if constexpr (kStaged) {
    const dev::U2 v = dev::LoadShared8(at);
    return {v.x, v.y};
  } else {
    return valid ? *reinterpret_cast<const Pair*>(at) : Pair{0, 0};
  }
}

// ---- Scales: a lane reads those of block t, rows g and g + 8, and the quad hands them around. ----

struct RawScales {
  uint32_t scale, second;  // halves of rows g and g + 8
  Pair factors;
};

DUNLIN_DEV RawScales LoadScales(const CudaMatrix& m, const uint8_t* unit) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  RawScales raw = {0, 0, {0, 0}};
  const uint8_t* at = unit + (t * 32 / m.group_cols * 8 + g) * m.scale_bytes();
  if (m.second == CudaSecond::kNone) {
    raw.scale = *reinterpret_cast<const uint32_t*>(at);
  } else {
    const Pair both = *reinterpret_cast<const Pair*>(at);
    raw.scale = both.x;
    raw.second = both.y;
  }
  const int factor_bytes = m.factor_bytes();
  if (factor_bytes == 0) return raw;
  const uint8_t* factors = unit + 8 * (kUnitColumns / m.group_cols * m.scale_bytes()) + (t * 8 + g) * factor_bytes;
  if (factor_bytes == 2) raw.factors.x = *reinterpret_cast<const uint16_t*>(factors);
  if (factor_bytes == 4) raw.factors.x = *reinterpret_cast<const uint32_t*>(factors);
  if (factor_bytes == 8) raw.factors = *reinterpret_cast<const Pair*>(factors);
  return raw;
}

// kHalves: 2 with factors of 16 columns, else 1. Indices: row g or g + 8, half of the block.
template <int kHalves>
struct Scales {
  float scale[2][kHalves];
  float min[2][kHalves];
  uint32_t code_offset;  // as a byte
  bool has_min;          // the same in all lanes
};

template <int kHalves>
DUNLIN_DEV Scales<kHalves> DecodeScales(const CudaMatrix& m, const RawScales& raw) {
  Scales<kHalves> s;
  s.code_offset = static_cast<uint8_t>(m.code_offset);
  s.has_min = m.second != CudaSecond::kNone;
  DUNLIN_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float scale = r == 0 ? dev::HalfLow(raw.scale) : dev::HalfHigh(raw.scale);
    const float second = r == 0 ? dev::HalfLow(raw.second) : dev::HalfHigh(raw.second);
    DUNLIN_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      const int i = r * kHalves + h;
      float d = scale, min = second;
      if (m.factor_cols != 0) {
        d *= static_cast<float>(static_cast<int8_t>(raw.factors.x >> (8 * i)));
        const uint32_t factor = kHalves == 2 ? raw.factors.y >> (8 * i) : raw.factors.x >> (16 + 8 * i);
        min *= static_cast<float>(factor & 255u);
      }
      // An offset times the scale is exact: eleven bits times nine.
      if (m.second == CudaSecond::kOffset) min = d * second;
      s.scale[r][h] = d;
      s.min[r][h] = min;
    }
  }
  return s;
}

// Block p's.
template <int kHalves>
DUNLIN_DEV Scales<kHalves> OfBlock(const Scales<kHalves>& mine, int p) {
  const int lane = (dev::Lane() & 28) + p;
  Scales<kHalves> s = mine;
  DUNLIN_UNROLL
  for (int r = 0; r < 2; ++r) {
    DUNLIN_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      s.scale[r][h] = dev::Shuffle(mine.scale[r][h], lane);
      if (mine.has_min) s.min[r][h] = dev::Shuffle(mine.min[r][h], lane);
    }
  }
  return s;
}

// ---- Products of one block of 32 columns ----

// Sums of products begin at this, whose bits are 1.5 * 2^23 as a float: plus a whole number below 2^22 they are that
// much more, so taking it off again makes the float, at a tenth of a conversion's cost.
inline constexpr int32_t kFloatOfInt = 0x4B400000;
DUNLIN_DEV float ToFloat(int32_t sum) { return dev::BitsToFloat(static_cast<uint32_t>(sum)) - 12582912.0f; }

struct TokenScale {
  float scale;
  uint32_t sums;  // of the codes of columns 0…15 and 16…31, as BlockScale has them
};
template <bool kStaged>
DUNLIN_DEV TokenScale LoadTokenScale(const TokenTile& in, int token, int p) {
  const Pair raw = LoadPair<kStaged>(in.scales + token * in.scale_pitch + 8 * p, token < in.count);
  return {dev::BitsToFloat(raw.x), raw.y};
}

// y += d_in * (d * acc + min * sum), for the four sums of a lane. a: the codes of half h of the block, or of all.
template <int kHalves>
DUNLIN_DEV void MultiplyScaled(const uint32_t (&a)[4], const uint32_t (&b)[2], const Scales<kHalves>& s, int h,
                               const TokenScale (&in)[2], float (&y)[4]) {
  const uint32_t which = kHalves == 1 ? 0x0101u : h == 0 ? 0x0001u : 0x0100u;  // of the two sums
  int32_t acc[4];
  DUNLIN_UNROLL
  for (int i = 0; i < 2; ++i) acc[i] = acc[i + 2] = dev::Dp2a(in[i].sums, which * s.code_offset, kFloatOfInt);
  dev::MmaS8(acc, a, b);
  float x[4];
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) x[c] = s.scale[c / 2][h] * ToFloat(acc[c]);
  if (s.has_min) {
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) {
      x[c] = dev::Fma(s.min[c / 2][h], ToFloat(dev::Dp2a(in[c % 2].sums, which, kFloatOfInt)), x[c]);
    }
  }
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) y[c] = dev::Fma(in[c % 2].scale, x[c], y[c]);
}

template <int kHalves, int kN, bool kStaged>
DUNLIN_DEV void MultiplyCodes(const uint32_t (&a)[4], int p, const Scales<kHalves>& s, const TokenTile& in,
                              float (&y)[kN][4]) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int n = 0; n < kN; ++n) {
    if (kN > 1 && !kStaged && 8 * n >= in.count) break;
    const Pair codes = LoadPair<kStaged>(in.values + (8 * n + g) * in.pitch + 32 * p + 8 * t, 8 * n + g < in.count);
    const uint32_t b[2] = {codes.x, codes.y};
    const TokenScale scales[2] = {LoadTokenScale<kStaged>(in, 8 * n + 2 * t, p),
                                  LoadTokenScale<kStaged>(in, 8 * n + 2 * t + 1, p)};
    if constexpr (kHalves == 1) {
      MultiplyScaled<kHalves>(a, b, s, 0, scales, y[n]);
    } else {
      const uint32_t low[4] = {a[0], a[1], 0, 0}, high[4] = {0, 0, a[2], a[3]};
      MultiplyScaled<kHalves>(low, b, s, 0, scales, y[n]);
      MultiplyScaled<kHalves>(high, b, s, 1, scales, y[n]);
    }
  }
}

template <bool kStaged>
DUNLIN_DEV dev::U4 LoadHalves(const TokenTile& in, int token, int p) {
  const uint8_t* at = in.values + token * in.pitch + 64 * p + 16 * (dev::Lane() % 4);
  if constexpr (kStaged) {
    return dev::LoadShared16(at);
  } else {
    return token < in.count ? dev::LoadGlobal16(at) : dev::U4{0, 0, 0, 0};
  }
}

// a[0], a[1]: the fragments of the block's two products.
template <bool kScaled, int kN, bool kStaged>
DUNLIN_DEV void MultiplyHalves(const uint32_t (&a)[2][4], int p, const float (&scale)[2], const TokenTile& in,
                               float (&y)[kN][4]) {
  DUNLIN_UNROLL
  for (int n = 0; n < kN; ++n) {
    if (kN > 1 && !kStaged && 8 * n >= in.count) break;
    const dev::U4 v = LoadHalves<kStaged>(in, 8 * n + dev::Lane() / 4, p);
    const uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
    if constexpr (kScaled) {
      float acc[4] = {0, 0, 0, 0};
      dev::MmaF16(acc, a[0], b[0]);
      dev::MmaF16(acc, a[1], b[1]);
      DUNLIN_UNROLL
      for (int c = 0; c < 4; ++c) y[n][c] = dev::Fma(scale[c / 2], acc[c], y[n][c]);
    } else {
      dev::MmaF16(y[n], a[0], b[0]);
      dev::MmaF16(y[n], a[1], b[1]);
    }
  }
}

// ---- A unit ----

template <CudaKind kKind>
inline constexpr int kUnitLoads = kKind == CudaKind::kW2    ? 1
                                  : kKind == CudaKind::kW4  ? 2
                                  : kKind == CudaKind::kF16 ? 8
                                                            : 4;

// A unit's bytes on their way: kUnitLoads loads and the scales.
template <CudaKind kKind>
struct UnitLoads {
  dev::U4 codes[kUnitLoads<kKind>];
  RawScales scales;
};

template <CudaKind kKind>
DUNLIN_DEV void LoadUnit(const CudaMatrix& m, const uint8_t* tile, int unit, UnitLoads<kKind>* loads) {
  const uint8_t* at = tile + int64_t{unit} * (kUnitLoads<kKind> * kLoadBytes) + dev::Lane() * 16;
  DUNLIN_UNROLL
  for (int i = 0; i < kUnitLoads<kKind>; ++i) loads->codes[i] = dev::LoadStream16(at + i * kLoadBytes);
  if constexpr (kKind != CudaKind::kF16) {
    loads->scales = LoadScales(m, tile + m.scales_at() + int64_t{unit} * m.unit_scale_bytes());
  }
}

// The codes of block p, the next one, as signed bytes; what is left moves up, so that every index is a constant.
template <CudaKind kKind>
DUNLIN_DEV void TakeCodes(UnitLoads<kKind>* loads, int p, uint32_t (&a)[4]) {
  dev::U4& v = loads->codes[0];
  a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
  if constexpr (kKind == CudaKind::kW8) {
    DUNLIN_UNROLL
    for (int i = 0; i < 3; ++i) loads->codes[i] = loads->codes[i + 1];
  } else {
    constexpr int kBits = kKind == CudaKind::kW4 ? 4 : 2;
    DUNLIN_UNROLL
    for (int j = 0; j < 4; ++j) a[j] &= kBits == 4 ? 0x0F0F0F0Fu : 0x03030303u;
    v.x >>= kBits, v.y >>= kBits, v.z >>= kBits, v.w >>= kBits;
    if constexpr (kKind == CudaKind::kW4) {
      if (p % 2 == 1) v = loads->codes[1];
    }
  }
}

// The two fragments of block p.
template <CudaKind kKind>
DUNLIN_DEV void ExpandHalves(const UnitLoads<kKind>& loads, int p, uint32_t (&a)[2][4]) {
  DUNLIN_UNROLL
  for (int i = 0; i < 2; ++i) {
    if constexpr (kKind == CudaKind::kF16) {
      const dev::U4 v = loads.codes[2 * p + i];
      a[i][0] = v.x, a[i][1] = v.y, a[i][2] = v.z, a[i][3] = v.w;
    } else {
      const dev::U4 v = loads.codes[p];
      uint32_t low[2], high[2];
      dev::E4M3ToHalf(i == 0 ? v.x : v.z, low);
      dev::E4M3ToHalf(i == 0 ? v.y : v.w, high);
      a[i][0] = low[0], a[i][1] = high[0], a[i][2] = low[1], a[i][3] = high[1];
    }
  }
}

template <CudaKind kKind, int kHalves, int kN, bool kStaged>
DUNLIN_DEV void MultiplyUnit(const CudaMatrix& m, UnitLoads<kKind> loads, const TokenTile& in, float (&y)[kN][4]) {
  constexpr int kBlocks = kUnitColumns / kBlockColumns;
  if constexpr (kKind == CudaKind::kF16 || kKind == CudaKind::kE4M3) {
    Scales<kHalves> mine = {};
    if constexpr (kKind == CudaKind::kE4M3) mine = DecodeScales<kHalves>(m, loads.scales);
    DUNLIN_UNROLL
    for (int p = 0; p < kBlocks; ++p) {
      uint32_t a[2][4];
      ExpandHalves<kKind>(loads, p, a);
      float scale[2] = {1.0f, 1.0f};
      if constexpr (kKind == CudaKind::kE4M3) {
        const Scales<kHalves> s = OfBlock(mine, p);
        scale[0] = s.scale[0][0] * dev::kE4M3Unit, scale[1] = s.scale[1][0] * dev::kE4M3Unit;
      }
      MultiplyHalves<kKind == CudaKind::kE4M3, kN, kStaged>(a, p, scale, in, y);
    }
  } else {
    const Scales<kHalves> mine = DecodeScales<kHalves>(m, loads.scales);
    const auto multiply = [&](int p) {
      uint32_t a[4];
      TakeCodes<kKind>(&loads, p, a);
      MultiplyCodes<kHalves, kN, kStaged>(a, p, OfBlock(mine, p), in, y);
    };
    if constexpr (kN == 1) {  // few products: four blocks' go side by side
      DUNLIN_UNROLL
      for (int p = 0; p < kBlocks; ++p) multiply(p);
    } else {
      DUNLIN_ROLL
      for (int p = 0; p < kBlocks; ++p) multiply(p);
    }
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_TILE_H_
