// Super-blocks of 256 elements: Q2_K to Q6_K and IQ4_XS. Each value is (d*scale)*q, less (dmin*min) where the type has
// one, and each operation rounds on its own.
#include <cstdint>

#include "kernels/quant_format_blocks.h"

namespace dunlin::kernels::quant_internal {
namespace {

struct ScaleMin {
  float scale;
  float min;
};

// Sub-block j (0..7) of the 12 packed bytes of Q4_K and Q5_K: 6-bit scale and 6-bit min. The first four keep theirs in
// the low six bits of s[j] and s[j + 4]; the last four are split between a nibble of s[j + 4] and spare top bits.
ScaleMin UnpackScaleMin(const uint8_t* s, int j) {
  int scale = 0;
  int min = 0;
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
    min = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  }
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// Sub-block j (0..15) of the 12 packed bytes of Q3_K: low nibbles first, then the upper two bits; bias 32.
int UnpackQ3Scale(const uint8_t* s, int j) {
  const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
  const int high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
  return (low | (high << 4)) - 32;
}

}  // namespace

void DecodeQ2K(const uint8_t* b, float* out) {
  const uint8_t* scales = b;
  const uint8_t* qs = b + 16;
  const float d = LoadHalf(b + 80);
  const float dmin = LoadHalf(b + 82);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int shift = 2 * ((i % 128) / 32);
    const uint8_t sc = scales[i / 16];
    const int q = (qs[32 * half + i % 32] >> shift) & 3;
    const float scale = d * static_cast<float>(sc & 15);
    const float min = dmin * static_cast<float>(sc >> 4);
    out[i] = scale * static_cast<float>(q) - min;
  }
}

void DecodeQ3K(const uint8_t* b, float* out) {
  const uint8_t* hmask = b;
  const uint8_t* qs = b + 32;
  const uint8_t* scales = b + 96;
  const float d = LoadHalf(b + 108);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int group = i / 32;
    const int low = (qs[32 * half + i % 32] >> (2 * (group % 4))) & 3;
    const int q = low - (((hmask[i % 32] >> group) & 1) != 0 ? 0 : 4);
    const float scale = d * static_cast<float>(UnpackQ3Scale(scales, i / 16));
    out[i] = scale * static_cast<float>(q);
  }
}

void DecodeQ4K(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  const float dmin = LoadHalf(b + 2);
  const uint8_t* qs = b + 16;
  for (int i = 0; i < kSuperBlock; ++i) {
    const int group = i / 32;
    const ScaleMin s = UnpackScaleMin(b + 4, group);
    const int q = (qs[32 * (group / 2) + i % 32] >> (4 * (group % 2))) & 15;
    const float scale = d * s.scale;
    const float min = dmin * s.min;
    out[i] = scale * static_cast<float>(q) - min;
  }
}

void DecodeQ5K(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  const float dmin = LoadHalf(b + 2);
  const uint8_t* qh = b + 16;
  const uint8_t* qs = b + 48;
  for (int i = 0; i < kSuperBlock; ++i) {
    const int group = i / 32;
    const ScaleMin s = UnpackScaleMin(b + 4, group);
    const int low = (qs[32 * (group / 2) + i % 32] >> (4 * (group % 2))) & 15;
    const int q = low | (((qh[i % 32] >> group) & 1) << 4);
    const float scale = d * s.scale;
    const float min = dmin * s.min;
    out[i] = scale * static_cast<float>(q) - min;
  }
}

void DecodeQ6K(const uint8_t* b, float* out) {
  const uint8_t* ql = b;
  const uint8_t* qh = b + 128;
  const uint8_t* scales = b + 192;
  const float d = LoadHalf(b + 208);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int half = i / 128;
    const int quarter = (i % 128) / 32;
    const int lane = i % 32;
    const int low = (ql[64 * half + 32 * (quarter % 2) + lane] >> (4 * (quarter / 2))) & 15;
    const int high = (qh[32 * half + lane] >> (2 * quarter)) & 3;
    const int q = (low | (high << 4)) - 32;
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
    out[i] = scale * static_cast<float>(q);
  }
}

void DecodeIq4Xs(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  const int scales_high = LoadU16(b + 2);
  const uint8_t* scales_low = b + 4;
  const uint8_t* qs = b + 8;
  for (int i = 0; i < kSuperBlock; ++i) {
    const int group = i / 32;
    const int lane = i % 32;
    const int low = (scales_low[group / 2] >> (4 * (group % 2))) & 15;
    const int high = (scales_high >> (2 * group)) & 3;
    const int code = (qs[16 * group + lane % 16] >> (4 * (lane / 16))) & 15;
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    out[i] = scale * static_cast<float>(kIq4Levels[code]);
  }
}

}  // namespace dunlin::kernels::quant_internal
