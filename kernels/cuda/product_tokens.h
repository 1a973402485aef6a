// Prepared rows as a warp of product_tile.h takes them: B fragments and scales of tiles of eight tokens.
// A tile of fewer tokens reads the last one again for those that are not there: a token is a column of the tensor
// core's, whose sums nobody stores, and no column meets another.
// Thread-safety: device code.  Owns: nothing.  Errors: none.  Source: ours; fragments as PTX ISA 8.x.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_TOKENS_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_TOKENS_H_

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/matrix.h"

namespace dunlin::kernels::cuda {

inline constexpr int kScaleBytes = static_cast<int>(sizeof(BlockScale));
inline constexpr int kUnitScaleBytes = kUnitColumns / kBlockColumns * kScaleBytes;

// In global memory, from one unit on. count: of the tokens from `first` on, at least 1.
template <bool kCodes, int kN>
class GlobalTokens {
 public:
  DUNLIN_DEV GlobalTokens(const PreparedRows& in, int first, int count, int unit) {
    const int g = dev::Lane() / 4, t = dev::Lane() % 4, last = count - 1;
    const int64_t stride = in.stride;
    const auto at = [&](int token) { return token < last ? token : last; };
    if constexpr (kCodes) {
      const int64_t scale_pitch = stride / kBlockColumns * kScaleBytes;
      values_ = reinterpret_cast<const uint8_t*>(in.codes) + first * stride + unit * kUnitColumns + 8 * t;
      scales_ = reinterpret_cast<const uint8_t*>(in.scales) + first * scale_pitch + unit * kUnitScaleBytes;
      DUNLIN_UNROLL
      for (int n = 0; n < kN; ++n) {
        value_at_[n] = static_cast<uint32_t>(at(8 * n + g) * stride);
        scale_at_[n][0] = static_cast<uint32_t>(at(8 * n + 2 * t) * scale_pitch);
        scale_at_[n][1] = static_cast<uint32_t>(at(8 * n + 2 * t + 1) * scale_pitch);
      }
    } else {
      values_ = reinterpret_cast<const uint8_t*>(in.halves + first * stride + unit * kUnitColumns) + 16 * t;
      DUNLIN_UNROLL
      for (int n = 0; n < kN; ++n) value_at_[n] = static_cast<uint32_t>(at(8 * n + g) * stride * 2);
    }
  }
  DUNLIN_DEV void NextUnit() {
    values_ += kCodes ? kUnitColumns : 2 * kUnitColumns;
    if (kCodes) scales_ += kUnitScaleBytes;
  }
  DUNLIN_DEV dev::U2 Codes(int n, int p) const { return dev::LoadReadOnly8(values_ + value_at_[n] + 32 * p); }
  DUNLIN_DEV dev::U4 Halves(int n, int p) const { return dev::LoadReadOnly16(values_ + value_at_[n] + 64 * p); }
  // BlockScale of token 8n + 2t + i.
  DUNLIN_DEV dev::U2 Scale(int n, int i, int p) const {
    return dev::LoadReadOnly8(scales_ + scale_at_[n][i] + kScaleBytes * p);
  }

 private:
  const uint8_t* values_;
  const uint8_t* scales_ = nullptr;
  uint32_t value_at_[kN];
  uint32_t scale_at_[kN][2] = {};
};

// A unit of tokens in shared memory: a token's codes, then its four scales; or its halves.
template <bool kCodes>
class StagedTokens {
 public:
  // So that a quad's reads of four tokens (two, of halves) meet different banks.
  static constexpr int kPitch = kCodes ? 160 : 320;

  DUNLIN_DEV explicit StagedTokens(const uint8_t* stage)
      : values_(stage + dev::Lane() / 4 * kPitch + dev::Lane() % 4 * (kCodes ? 8 : 16)),
        scales_(stage + dev::Lane() % 4 * 2 * kPitch + kUnitColumns) {}
  DUNLIN_DEV dev::U2 Codes(int n, int p) const { return dev::LoadShared8(values_ + 8 * n * kPitch + 32 * p); }
  DUNLIN_DEV dev::U4 Halves(int n, int p) const { return dev::LoadShared16(values_ + 8 * n * kPitch + 64 * p); }
  DUNLIN_DEV dev::U2 Scale(int n, int i, int p) const {
    return dev::LoadShared8(scales_ + (8 * n + i) * kPitch + kScaleBytes * p);
  }

  // Copies a unit of `tokens` tokens, the block's threads together.
  DUNLIN_DEV static void Stage(const PreparedRows& in, int first, int count, int unit, int tokens, int threads,
                               uint8_t* to) {
    constexpr int kValues = kCodes ? 8 : 16, kPieces = kCodes ? 10 : 16;
    constexpr int kUnitBytes = kCodes ? kUnitColumns : 2 * kUnitColumns;
    const auto* values =
        kCodes ? reinterpret_cast<const uint8_t*>(in.codes) : reinterpret_cast<const uint8_t*>(in.halves);
    const auto* scales = reinterpret_cast<const uint8_t*>(in.scales);
    const int64_t pitch = int64_t{in.stride} * (kCodes ? 1 : 2), scale_pitch = in.stride / kBlockColumns * kScaleBytes;
    for (int i = dev::ThreadX(); i < tokens * kPieces; i += threads) {
      const int token = i / kPieces, piece = i % kPieces;
      const int row = first + (token < count ? token : count - 1);
      const uint8_t* from = piece < kValues
                                ? values + row * pitch + unit * kUnitBytes + piece * 16
                                : scales + row * scale_pitch + unit * kUnitScaleBytes + (piece - kValues) * 16;
      dev::CopyAsync16(to + token * kPitch + piece * 16, from, true);
    }
  }

 private:
  const uint8_t* values_;
  const uint8_t* scales_;
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_TOKENS_H_
