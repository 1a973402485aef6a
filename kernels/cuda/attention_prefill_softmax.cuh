// The softmax of prefill attention, on a warp's C fragments of S: 16 * kRowTiles rows against kTiles tiles of tokens.
//
// A row keeps a reference R and a sum. With s a score in base 2 and 2^e the power of two of a token's scale of V,
//   sum = sum of 2^(s - R), vector = sum of 2^(s - R) V
// R follows the largest s + e rather than the largest s: the weights of V's codes, 2^(s - R) times the scale, are up to
// 2^(kHeadroom + 2), so that whatever is not 2^26 smaller than the row's largest is rounded to f16 with all its bits,
// whatever V's scales are. R is an integer: a weight is rounded alike whatever R is, so chunks of a prompt hardly show.
// In R, an e below kLeastExponent counts as that, which keeps 2^(s - R) finite; a zero V has scale 1, so among V below
// 2^-25 it costs them precision. (As attention_decode.h.)
//
// A row that sees nothing yet has a finite R and weights of 0. Scales of tokens that are not seen may be anything: they
// are made finite and meet a weight of 0.
//
// Thread-safety: device code; all lanes of a warp call. Errors: none.
// Source: FlashAttention-2 (arXiv 2307.08691); the reference ours.
#ifndef DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_SOFTMAX_CUH_
#define DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_SOFTMAX_CUH_

#include <cstdint>

#include "kernels/attention_mask.h"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/dev.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

template <KvFormat kKey, KvFormat kValue, int kRowTiles, int kTiles>
struct PrefillSoftmax {
  static constexpr float kHeadroom = 13.0f;
  static constexpr uint32_t kLeastExponent = 37;         // biased by 127
  static constexpr uint32_t kLargestScale = 0x7F000000;  // the bits of 2^127
  static constexpr float kLog2E = 1.4426950408889634f;
  static constexpr int kColumns = 4 * kTiles;    // of a lane: i is column i % 2 of n-tile i / 2
  static constexpr int kHalves = 2 * kRowTiles;  // rows of a lane: k is row g + k % 2 * 8 of row tile k / 2

  // [row tile][n-tile: half of a tile of tokens]: C fragments.
  using Scores = float[kRowTiles][2 * kTiles][4];
  struct Rows {
    float reference[kHalves];
    float sum[kHalves];  // over this lane's columns
  };

  DUNLIN_DEV static float& At(Scores& s, int k, int i) { return s[k / 2][i / 2][k % 2 * 2 + i % 2]; }
  DUNLIN_DEV static float At(const Scores& s, int k, int i) { return s[k / 2][i / 2][k % 2 * 2 + i % 2]; }
  // The token, in its stage, of this lane's column i.
  DUNLIN_DEV static int Token(int i) {
    return i / 4 * kTileTokens + TileToken(i / 2 % 2 * 8 + dev::Lane() % 4 * 2 + i % 2);
  }
  DUNLIN_DEV static float ValueScale(const uint8_t* scales, int token) {
    const uint32_t bits = dev::FloatBits(TokenScale<kValue>(scales, token));
    return dev::BitsToFloat(bits < kLargestScale ? bits : kLargestScale);
  }

  DUNLIN_DEV static void Begin(Rows* rows) {
    DUNLIN_UNROLL
    for (int k = 0; k < kHalves; ++k) {
      rows->reference[k] = -1e30f;  // less itself is 0, unlike infinity
      rows->sum[k] = 0.0f;
    }
  }

  // Products of q and codes of K to scores in base 2. factor, cap: as PrefillArgs.
  DUNLIN_DEV static void Scale(const uint8_t* key_scales, float factor, float cap, Scores& s) {
    DUNLIN_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      const float column = TokenScale<kKey>(key_scales, Token(i)) * (factor * CodeUnit<kKey>());
      DUNLIN_UNROLL
      for (int k = 0; k < kHalves; ++k) At(s, k, i) *= column;
    }
    if (cap == 0.0f) return;
    DUNLIN_UNROLL
    for (int i = 0; i < kColumns * kHalves; ++i) {
      // tanh(y) = 1 - 2 / (exp(2 y) + 1); the quotient to 2^-21 by its logarithm.
      float& x = At(s, i / kColumns, i % kColumns);
      x = cap - cap * dev::Exp2(1.0f - dev::Log2(dev::Exp2(x) + 1.0f));
    }
  }

  // Minus infinity where row k does not see a token: seen.Contains without branches. first: the tiles' first tokens.
  DUNLIN_DEV static void Mask(const SeenRuns& seen, const int (&first)[kTiles], int k, Scores& s) {
    DUNLIN_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      const int token = first[i / 4] + Token(i) % kTileTokens;
      const int after = token >= seen.low ? 1 : 0, sink = token < seen.sink_end ? 1 : 0;
      float& x = At(s, k, i);
      x = ((token < seen.end ? 1 : 0) & (after | sink)) != 0 ? x : dev::BitsToFloat(0xFF800000u);
    }
  }

  // References take in the scores; shrink[k]: what has been added up is to be multiplied with.
  DUNLIN_DEV static void MoveReferences(const uint8_t* value_scales, const Scores& s, Rows* rows,
                                        float (&shrink)[kHalves]) {
    float top[kHalves];
    DUNLIN_UNROLL
    for (int k = 0; k < kHalves; ++k) top[k] = -1e30f;
    DUNLIN_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      float e = 0.0f;
      if constexpr (KvScaleBytes(kValue) != 0) {
        const uint32_t biased = dev::FloatBits(ValueScale(value_scales, Token(i))) >> 23;
        // As 2^23 + biased, less 2^23 + 127.
        e = dev::BitsToFloat(0x4B000000u | (biased > kLeastExponent ? biased : kLeastExponent)) - 8388735.0f;
      }
      DUNLIN_UNROLL
      for (int k = 0; k < kHalves; ++k) {
        const float x = At(s, k, i) + e;
        top[k] = x > top[k] ? x : top[k];
      }
    }
    DUNLIN_UNROLL
    for (int k = 0; k < kHalves; ++k) {
      DUNLIN_UNROLL
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = dev::ShuffleXor(top[k], mask);
        top[k] = other > top[k] ? other : top[k];
      }
      const auto wanted = static_cast<float>(dev::RoundToInt(top[k] - (kHeadroom - 0.5f)));
      const float next = wanted > rows->reference[k] ? wanted : rows->reference[k];
      shrink[k] = dev::Exp2(rows->reference[k] - next);
      rows->reference[k] = next;
      rows->sum[k] *= shrink[k];
    }
  }

  // Scores to weights of V's codes.
  DUNLIN_DEV static void Weigh(const uint8_t* value_scales, Scores& s, Rows* rows) {
    dev::SyncWarp();  // only so that the compiler loads V's scales again: it has no registers to keep them
    DUNLIN_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      const float scale = ValueScale(value_scales, Token(i));
      DUNLIN_UNROLL
      for (int k = 0; k < kHalves; ++k) {
        const float weight = dev::Exp2(At(s, k, i) - rows->reference[k]);
        rows->sum[k] += weight;
        At(s, k, i) = weight * scale;
      }
    }
  }

  // What row k's vector of V's codes is to be multiplied with at the end. sink: a logit (base e) that joins the sum.
  DUNLIN_DEV static float Factor(const Rows& rows, int k, const float* sink) {
    float sum = rows.sum[k];
    sum += dev::ShuffleXor(sum, 1);
    sum += dev::ShuffleXor(sum, 2);
    if (sink != nullptr) sum += dev::Exp2(*sink * kLog2E - rows.reference[k]);
    return CodeUnit<kValue>() / sum;
  }
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ATTENTION_PREFILL_SOFTMAX_CUH_
