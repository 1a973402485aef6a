// A head's vector in a warp (head_vector.h) to the codes and the scale of an 8-bit page: the bits of QuantizeE4M3 and
// QuantizeInt8 (paged_kv.h).
// Thread-safety: device code; all 32 lanes call everything here.  Errors: what is not finite is stored as they say and
// counted.  Cost: two butterflies and about ten operations a value.  Source: paged_kv.h; ours.
#ifndef DUNLIN_KERNELS_CUDA_KV_CODES_H_
#define DUNLIN_KERNELS_CUDA_KV_CODES_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/four_floats.h"
#include "kernels/cuda/head_vector.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

// Takes the centre off. What is not finite becomes what QuantizeHead makes of it; *lost: how many of this lane's did.
// Returns the largest magnitude of the finite ones, to all lanes.
template <int kFours>
DUNLIN_DEV float CentreHead(const float* centre, int dim, HeadVector<kFours>* head, int* lost) {
  float amax = 0.0f;
  *lost = 0;
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    const bool centred = centre != nullptr && FirstDim(i) < dim;
    const FourFloats off = centred ? LoadFour(centre + FirstDim(i)) : NoFloats();
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) {
      float& x = head->x[i].at[c];
      if (centred) x = x - off.at[c];
      const float magnitude = Magnitude(x);
      if (IsFinite(x)) {
        amax = magnitude > amax ? magnitude : amax;
      } else {
        ++*lost;
        const float largest = dev::BitsToFloat(0x7F7FFFFFu | (dev::FloatBits(x) & 0x80000000u));
        x = x != x ? 0.0f : largest;
      }
    }
  }
  return dev::WarpMax(amax);
}

// Divides by the scale, which becomes *bits: UE8M0 or float32.
template <int kFours>
DUNLIN_DEV void ScaleHead(KvFormat format, float amax, HeadVector<kFours>* head, uint32_t* bits) {
  if (format == KvFormat::kE4M3) {
    // 448 = 1.75 * 2^8: the exponent of amax less 8, or less 7 where its fraction is above 1.75.
    const uint32_t all = dev::FloatBits(amax);
    const int e = static_cast<int>(all >> 23) - 8 + ((all & 0x7FFFFFu) > 0x600000u ? 1 : 0);
    *bits = amax == 0.0f ? 127u : static_cast<uint32_t>(e > 0 ? e : 0);
    const float inverse = dev::BitsToFloat((254u - *bits) << 23);
    DUNLIN_UNROLL
    for (int i = 0; i < kFours; ++i) {
      DUNLIN_UNROLL
      for (int c = 0; c < 4; ++c) head->x[i].at[c] *= inverse;
    }
    return;
  }
  float scale = amax / 127.0f;
  if (scale == 0.0f) scale = 1.0f;
  *bits = dev::FloatBits(scale);
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) head->x[i].at[c] = head->x[i].at[c] / scale;
  }
}

DUNLIN_DEV uint32_t CodeOf(KvFormat format, float x) {
  return format == KvFormat::kE4M3 ? dev::FloatToE4M3(x) : static_cast<uint32_t>(RoundToInt8(x)) & 0xFFu;
}

template <int kFours>
struct HeadCodes {
  uint32_t four[kFours];
};
template <int kFours>
DUNLIN_DEV HeadCodes<kFours> NearestCodes(KvFormat format, const HeadVector<kFours>& head) {
  HeadCodes<kFours> codes;
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    uint32_t bytes[4];
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) bytes[c] = CodeOf(format, head.x[i].at[c]);
    codes.four[i] = PackBytes(bytes);
  }
  return codes;
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_KV_CODES_H_
