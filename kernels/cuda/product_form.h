// The forms of matrices that products.h has kernels for, and a lane's scales in them.
// Thread-safety: device code.  Owns: registers.  Errors: none.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_FORM_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_FORM_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/matrix.h"

namespace dunlin::kernels::cuda {

// What a kernel is made for: a kind, how many scales a block of 32 columns has, and whether a min (or offset) stands
// beside each.
template <CudaKind kKindOf, int kHalvesOf, bool kMinOf>
struct Form {
  static constexpr CudaKind kKind = kKindOf;
  static constexpr int kHalves = kHalvesOf;
  static constexpr bool kMin = kMinOf;
  static constexpr bool kCodes = kKind <= CudaKind::kW8;
  static constexpr bool kScales = kKind != CudaKind::kF16;
  static constexpr int kUnitLoads = kKind == CudaKind::kW2    ? 1
                                    : kKind == CudaKind::kW4  ? 2
                                    : kKind == CudaKind::kF16 ? 8
                                                              : 4;
};

// Loads to keep ahead where the products of a load take their time: one serves several blocks of many tokens, or is
// small beside them.
template <typename F>
inline constexpr int kLoadsOfMany = F::kKind == CudaKind::kF16  ? 4
                                    : F::kKind == CudaKind::kW8 ? 2
                                                                : 1;

// Of rows g and g + 8; two of each where a block has two.
template <typename F>
struct Scales {
  float scale[2][F::kHalves];
  float min[2][F::kHalves];
  uint32_t code_offset;  // as a byte
};

// Block p's scales: lane t of a quad has read those of block t.
template <typename F>
DUNLIN_DEV Scales<F> OfBlock(const Scales<F>& mine, int p) {
  Scales<F> s = mine;
  if constexpr (F::kScales) {
    const int lane = (dev::Lane() & 28) + p;
    DUNLIN_UNROLL
    for (int i = 0; i < 2 * F::kHalves; ++i) {
      const int r = i / F::kHalves, h = i % F::kHalves;
      s.scale[r][h] = dev::Shuffle(mine.scale[r][h], lane);
      if constexpr (F::kMin) s.min[r][h] = dev::Shuffle(mine.min[r][h], lane);
    }
  }
  return s;
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_FORM_H_
