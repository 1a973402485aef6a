// Four floats that are loaded and stored together: what a lane moves at once.
// Thread-safety: device code.  Pointers: 16-byte aligned where four whole floats are moved.  Errors: none.
// Cost: one 16-byte access.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_FOUR_FLOATS_H_
#define DUNLIN_KERNELS_CUDA_FOUR_FLOATS_H_

#include <cstdint>

#include "kernels/cuda/dev.h"

namespace dunlin::kernels::cuda {

struct alignas(16) FourFloats {
  float at[4];
};

DUNLIN_DEV FourFloats NoFloats() { return FourFloats{{0.0f, 0.0f, 0.0f, 0.0f}}; }

DUNLIN_DEV FourFloats LoadFour(const float* from) { return *reinterpret_cast<const FourFloats*>(from); }
DUNLIN_DEV void StoreFour(float* to, const FourFloats& v) { *reinterpret_cast<FourFloats*>(to) = v; }

// Values first … first + 3 of an array of `count`; 0 for those that it has not. An array whose length is no multiple of
// four may begin anywhere, so its values are taken one by one.
DUNLIN_DEV FourFloats LoadFourOf(const float* from, int first, int count) {
  if (count % 4 == 0) return first < count ? LoadFour(from + first) : NoFloats();
  FourFloats v = NoFloats();
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) {
    if (first + c < count) v.at[c] = from[first + c];
  }
  return v;
}

DUNLIN_DEV float Magnitude(float x) { return dev::BitsToFloat(dev::FloatBits(x) & 0x7FFFFFFFu); }
DUNLIN_DEV bool IsFinite(float x) { return (dev::FloatBits(x) & 0x7F800000u) != 0x7F800000u; }

// Four codes, each in the low byte, as the bytes of one word.
DUNLIN_DEV uint32_t PackBytes(const uint32_t (&codes)[4]) {
  return (codes[0] & 0xFFu) | (codes[1] & 0xFFu) << 8 | (codes[2] & 0xFFu) << 16 | codes[3] << 24;
}

// To nearest even within +-127; NaN gives 0.
DUNLIN_DEV int32_t RoundToInt8(float x) {
  x = x > 127.0f ? 127.0f : x;
  x = x < -127.0f ? -127.0f : x;
  return dev::RoundToInt(x);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_FOUR_FLOATS_H_
