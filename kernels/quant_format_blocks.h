// Private to quant_format*.cc: little-endian loads and the decoders of single 256-element super-blocks.
// Thread-safety: pure functions.  Shapes: every decoder reads one block at `b` (bytes as in dtype.cc) and writes 256
// floats. Source: the published GGUF block layouts.
#ifndef DUNLIN_KERNELS_QUANT_FORMAT_BLOCKS_H_
#define DUNLIN_KERNELS_QUANT_FORMAT_BLOCKS_H_

#include <cstdint>

#include "kernels/quant_format.h"

namespace dunlin::kernels::quant_internal {

inline constexpr int kSuperBlock = 256;

inline uint16_t LoadU16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }
inline float LoadHalf(const uint8_t* p) { return HalfToFloat(LoadU16(p)); }

// The 16 levels that IQ4_NL and IQ4_XS codes stand for.
inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void DecodeQ2K(const uint8_t* b, float* out);
void DecodeQ3K(const uint8_t* b, float* out);
void DecodeQ4K(const uint8_t* b, float* out);
void DecodeQ5K(const uint8_t* b, float* out);
void DecodeQ6K(const uint8_t* b, float* out);
void DecodeIq4Xs(const uint8_t* b, float* out);

}  // namespace dunlin::kernels::quant_internal

#endif  // DUNLIN_KERNELS_QUANT_FORMAT_BLOCKS_H_
