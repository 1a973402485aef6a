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
};

template <int kHalves>
DUNLIN_DEV Scales<kHalves> DecodeScales(const CudaMatrix& m, const RawScales& raw) {
  Scales<kHalves> s;
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
      if (m.second == CudaSecond::kNone) min = d * static_cast<float>(m.code_offset);
      s.scale[r][h] = d;
      s.min[r][h] = min;
    }
  }
  return s;
}

// Block p's.
template <int kHalves>
DUNLIN_DEV Scales<kHalves> OfBlock(const Scales<kHalves>& mine, int p, bool has_min) {
  const int lane = (dev::Lane() & 28) + p;
  Scales<kHalves> s;
  DUNLIN_UNROLL
  for (int r = 0; r < 2; ++r) {
    DUNLIN_UNROLL
    for (int h = 0; h < kHalves; ++h) {
      s.scale[r][h] = dev::Shuffle(mine.scale[r][h], lane);
      s.min[r][h] = has_min ? dev::Shuffle(mine.min[r][h], lane) : 0.0f;
    }
  }
  return s;
}

// ---- Products of one block of 32 columns ----

// y += d_in * (d * acc + min * sum), for the four sums of a lane.
template <int kHalves>
DUNLIN_DEV void AddScaled(const int32_t (&acc)[4], const Scales<kHalves>& s, int h, bool has_min,
                          const float (&d_in)[2], const float (&sum)[2], float (&y)[4]) {
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) {
    float x = s.scale[c / 2][h] * static_cast<float>(acc[c]);
    if (has_min) x = dev::Fma(s.min[c / 2][h], sum[c % 2], x);
    y[c] = dev::Fma(d_in[c % 2], x, y[c]);
  }
}

template <int kHalves, int kN, bool kStaged>
DUNLIN_DEV void MultiplyCodes(const uint32_t (&a)[4], int p, const Scales<kHalves>& s, bool has_min,
                              const TokenTile& in, float (&y)[kN][4]) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  DUNLIN_UNROLL
  for (int n = 0; n < kN; ++n) {
    const Pair codes = LoadPair<kStaged>(in.values + (8 * n + g) * in.pitch + 32 * p + 8 * t, 8 * n + g < in.count);
    const uint32_t b[2] = {codes.x, codes.y};
    float d_in[2], sum[2][2];
    DUNLIN_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int token = 8 * n + 2 * t + i;
      const Pair scale = LoadPair<kStaged>(in.scales + token * in.scale_pitch + 8 * p, token < in.count);
      d_in[i] = dev::BitsToFloat(scale.x);
      const int low = static_cast<int16_t>(scale.y), high = static_cast<int32_t>(scale.y) >> 16;
      sum[0][i] = static_cast<float>(kHalves == 2 ? low : low + high);
      sum[1][i] = static_cast<float>(high);
    }
    int32_t acc[4] = {0, 0, 0, 0};
    if constexpr (kHalves == 1) {
      dev::MmaS8(acc, a, b);
      AddScaled<kHalves>(acc, s, 0, has_min, d_in, sum[0], y[n]);
    } else {
      const uint32_t low[4] = {a[0], a[1], 0, 0}, high[4] = {0, 0, a[2], a[3]};
      dev::MmaS8(acc, low, b);
      AddScaled<kHalves>(acc, s, 0, has_min, d_in, sum[0], y[n]);
      int32_t second[4] = {0, 0, 0, 0};
      dev::MmaS8(second, high, b);
      AddScaled<kHalves>(second, s, 1, has_min, d_in, sum[1], y[n]);
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

// Codes of block p as signed bytes.
template <CudaKind kKind>
DUNLIN_DEV void ExpandCodes(const UnitLoads<kKind>& loads, int p, uint32_t (&a)[4]) {
  constexpr int kBlocks = 4 / kUnitLoads<kKind>;  // of a load
  const dev::U4 v = loads.codes[p / kBlocks];
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  DUNLIN_UNROLL
  for (int j = 0; j < 4; ++j) {
    if constexpr (kKind == CudaKind::kW8) a[j] = words[j];
    if constexpr (kKind == CudaKind::kW4) a[j] = words[j] >> (4 * (p % 2)) & 0x0F0F0F0Fu;
    if constexpr (kKind == CudaKind::kW2) a[j] = words[j] >> (2 * p) & 0x03030303u;
  }
}

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
DUNLIN_DEV void MultiplyUnit(const CudaMatrix& m, const UnitLoads<kKind>& loads, const TokenTile& in,
                             float (&y)[kN][4]) {
  Scales<kHalves> mine = {};
  if constexpr (kKind != CudaKind::kF16) mine = DecodeScales<kHalves>(m, loads.scales);
  const bool has_min = m.second != CudaSecond::kNone || m.code_offset != 0;
  DUNLIN_UNROLL
  for (int p = 0; p < kUnitColumns / kBlockColumns; ++p) {
    if constexpr (kKind == CudaKind::kF16 || kKind == CudaKind::kE4M3) {
      uint32_t a[2][4];
      ExpandHalves<kKind>(loads, p, a);
      float scale[2] = {1.0f, 1.0f};
      if constexpr (kKind == CudaKind::kE4M3) {
        const Scales<kHalves> s = OfBlock(mine, p, false);
        scale[0] = s.scale[0][0] * dev::kE4M3Unit, scale[1] = s.scale[1][0] * dev::kE4M3Unit;
      }
      MultiplyHalves<kKind == CudaKind::kE4M3, kN, kStaged>(a, p, scale, in, y);
    } else {
      uint32_t a[4];
      ExpandCodes<kKind>(loads, p, a);
      MultiplyCodes<kHalves, kN, kStaged>(a, p, OfBlock(mine, p, has_min), has_min, in, y);
    }
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_TILE_H_
