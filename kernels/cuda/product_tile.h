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
#include "kernels/cuda/product_tokens.h"
#include "kernels/cuda/tile_stream.h"

namespace dunlin::kernels::cuda {

// Sums of products begin at this, whose bits are 1.5 * 2^23 as a float: plus a whole number below 2^22 they are that
// much more, so taking it off again makes the float, at a fraction of a conversion's cost.
inline constexpr int32_t kFloatOfInt = 0x4B400000;
DUNLIN_DEV float ToFloat(int32_t sum) { return dev::BitsToFloat(static_cast<uint32_t>(sum)) - 12582912.0f; }

// y += d_in * (d * acc + min * sum), for the four sums of a lane. a: the codes of half h of the block, or of all.
// in[i]: BlockScale of the lane's two tokens.
template <typename F>
DUNLIN_DEV void MultiplyScaled(const uint32_t (&a)[4], const uint32_t (&b)[2], const Scales<F>& s, int h,
                               const dev::U2 (&in)[2], float (&y)[4]) {
  const uint32_t which = F::kHalves == 1 ? 0x0101u : h == 0 ? 0x0001u : 0x0100u;  // of a block's two sums
  int32_t acc[4];
  DUNLIN_UNROLL
  for (int i = 0; i < 2; ++i) {
    acc[i] = acc[i + 2] = F::kMin ? kFloatOfInt : dev::Dp2a(in[i].y, which * s.code_offset, kFloatOfInt);
  }
  dev::MmaS8(acc, a, b);
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) {
    float x = s.scale[c / 2][h] * ToFloat(acc[c]);
    if constexpr (F::kMin) x = dev::Fma(s.min[c / 2][h], ToFloat(dev::Dp2a(in[c % 2].y, which, kFloatOfInt)), x);
    y[c] = dev::Fma(dev::BitsToFloat(in[c % 2].x), x, y[c]);
  }
}

template <typename F, int kN, typename Tokens>
DUNLIN_DEV void MultiplyCodes(const uint32_t (&a)[4], int p, const Scales<F>& s, const Tokens& tokens,
                              float (&y)[kN][4]) {
  DUNLIN_UNROLL
  for (int n = 0; n < kN; ++n) {
    const dev::U2 codes = tokens.Codes(n, p);
    const uint32_t b[2] = {codes.x, codes.y};
    const dev::U2 in[2] = {tokens.Scale(n, 0, p), tokens.Scale(n, 1, p)};
    if constexpr (F::kHalves == 1) {
      MultiplyScaled<F>(a, b, s, 0, in, y[n]);
    } else {
      const uint32_t low[4] = {a[0], a[1], 0, 0}, high[4] = {0, 0, a[2], a[3]};
      MultiplyScaled<F>(low, b, s, 0, in, y[n]);
      MultiplyScaled<F>(high, b, s, 1, in, y[n]);
    }
  }
}

// a[0], a[1]: the fragments of the block's two products.
template <typename F, int kN, typename Tokens>
DUNLIN_DEV void MultiplyHalves(const uint32_t (&a)[2][4], int p, const float (&scale)[2], const Tokens& tokens,
                               float (&y)[kN][4]) {
  DUNLIN_UNROLL
  for (int n = 0; n < kN; ++n) {
    const dev::U4 v = tokens.Halves(n, p);
    const uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
    if constexpr (F::kKind == CudaKind::kE4M3) {
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

// The codes of block p, the stream's next, as signed bytes. rest: what the blocks of one load leave each other.
template <typename F, typename Stream>
DUNLIN_DEV void TakeCodes(Stream* stream, int p, dev::U4* rest, uint32_t (&a)[4]) {
  if (p % (4 / F::kUnitLoads) == 0) *rest = stream->NextLoad();
  dev::U4& v = *rest;
  a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
  if constexpr (F::kKind == CudaKind::kW8) return;
  constexpr int kBits = F::kKind == CudaKind::kW4 ? 4 : 2;
  DUNLIN_UNROLL
  for (int j = 0; j < 4; ++j) a[j] &= kBits == 4 ? 0x0F0F0F0Fu : 0x03030303u;
  v.x >>= kBits, v.y >>= kBits, v.z >>= kBits, v.w >>= kBits;
}

// The two fragments of the stream's next block.
template <typename F, typename Stream>
DUNLIN_DEV void TakeHalves(Stream* stream, uint32_t (&a)[2][4]) {
  if constexpr (F::kKind == CudaKind::kF16) {
    DUNLIN_UNROLL
    for (int i = 0; i < 2; ++i) {
      const dev::U4 v = stream->NextLoad();
      a[i][0] = v.x, a[i][1] = v.y, a[i][2] = v.z, a[i][3] = v.w;
    }
  } else {
    const dev::U4 v = stream->NextLoad();
    DUNLIN_UNROLL
    for (int i = 0; i < 2; ++i) {
      uint32_t low[2], high[2];
      dev::E4M3ToHalf(i == 0 ? v.x : v.z, low);
      dev::E4M3ToHalf(i == 0 ? v.y : v.w, high);
      a[i][0] = low[0], a[i][1] = high[0], a[i][2] = low[1], a[i][3] = high[1];
    }
  }
}

template <typename F, int kN, typename Stream, typename Tokens>
DUNLIN_DEV void MultiplyUnit(Stream* stream, const Tokens& tokens, float (&y)[kN][4]) {
  constexpr int kBlocks = kUnitColumns / kBlockColumns;
  const Scales<F> mine = stream->NextScales();
  dev::U4 rest = {};
  const auto multiply = [&](int p) {
    const Scales<F> s = OfBlock<F>(mine, p);
    if constexpr (F::kCodes) {
      uint32_t a[4];
      TakeCodes<F>(stream, p, &rest, a);
      MultiplyCodes<F, kN>(a, p, s, tokens, y);
    } else {
      uint32_t a[2][4];
      TakeHalves<F>(stream, a);
      const float scale[2] = {s.scale[0][0] * dev::kE4M3Unit, s.scale[1][0] * dev::kE4M3Unit};
      MultiplyHalves<F, kN>(a, p, scale, tokens, y);
    }
  };
  if constexpr (kN * F::kHalves >= 4) {  // a block has products enough to keep a warp busy
    DUNLIN_ROLL
    for (int p = 0; p < kBlocks; ++p) multiply(p);
  } else {
    DUNLIN_UNROLL
    for (int p = 0; p < kBlocks; ++p) multiply(p);
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_TILE_H_
