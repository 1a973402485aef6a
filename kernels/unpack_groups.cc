#include "kernels/unpack_groups.h"

#include "base/check.h"
#include "kernels/group_format.h"
#include "kernels/quant_format_blocks.h"

namespace dunlin::kernels {
namespace {

using quant_internal::kIq4Levels;
using quant_internal::LoadHalf;
using quant_internal::LoadU16;

void SetScale(CodeGroup* g, float scale, float min) {
  g->scale[0] = g->scale[1] = scale;
  g->min[0] = g->min[1] = min;
}

int Nibble(const uint8_t* qs, int i) { return (qs[i % 16] >> (4 * (i / 16))) & 15; }

int FifthBit(const uint8_t* qh, int i) { return ((qh[i / 8] >> (i % 8)) & 1) << 4; }

// value(i): code of column i.
template <typename Value>
void SetCodes(CodeGroup* g, Value value) {
  for (int i = 0; i < 32; ++i) g->codes[i] = static_cast<int8_t>(value(i));
}

// 6-bit scale and min of group j of Q4_K and Q5_K (12 packed bytes).
void SetScaleMinK4(const uint8_t* b, int j, CodeGroup* g) {
  const uint8_t* s = b + 4;
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
  const int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  SetScale(g, LoadHalf(b) * static_cast<float>(scale), -(LoadHalf(b + 2) * static_cast<float>(min)));
}

int Q3Scale(const uint8_t* s, int j) {
  const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
  const int high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
  return (low | (high << 4)) - 32;
}

CodeGroup UnpackQ2K(const uint8_t* b, int index) {
  CodeGroup g;
  const uint8_t* qs = b + 16 + 32 * (index / 4);
  SetCodes(&g, [&](int i) { return (qs[i] >> (2 * (index % 4))) & 3; });
  for (int h = 0; h < 2; ++h) {
    const uint8_t sc = b[2 * index + h];
    g.scale[h] = LoadHalf(b + 80) * static_cast<float>(sc & 15);
    g.min[h] = -(LoadHalf(b + 82) * static_cast<float>(sc >> 4));
  }
  return g;
}

CodeGroup UnpackQ3K(const uint8_t* b, int index) {
  CodeGroup g;
  const uint8_t* qs = b + 32 + 32 * (index / 4);
  SetCodes(&g, [&](int i) { return ((qs[i] >> (2 * (index % 4))) & 3) - (((b[i] >> index) & 1) != 0 ? 0 : 4); });
  for (int h = 0; h < 2; ++h) {
    g.scale[h] = LoadHalf(b + 108) * static_cast<float>(Q3Scale(b + 96, 2 * index + h));
    g.min[h] = 0.0f;
  }
  return g;
}

CodeGroup UnpackQ6K(const uint8_t* b, int index) {
  CodeGroup g;
  const int half = index / 4;
  const int quarter = index % 4;
  const uint8_t* ql = b + 64 * half + 32 * (quarter % 2);
  const uint8_t* qh = b + 128 + 32 * half;
  SetCodes(&g,
           [&](int i) { return (((ql[i] >> (4 * (quarter / 2))) & 15) | (((qh[i] >> (2 * quarter)) & 3) << 4)) - 32; });
  for (int h = 0; h < 2; ++h) {
    g.scale[h] = LoadHalf(b + 208) * static_cast<float>(static_cast<int8_t>(b[192 + 2 * index + h]));
    g.min[h] = 0.0f;
  }
  return g;
}

CodeGroup UnpackIq4Xs(const uint8_t* b, int index) {
  CodeGroup g;
  const uint8_t* qs = b + 8 + 16 * index;
  SetCodes(&g, [&](int i) { return kIq4Levels[Nibble(qs, i)]; });
  const int low = (b[4 + index / 2] >> (4 * (index % 2))) & 15;
  const int high = (LoadU16(b + 2) >> (2 * index)) & 3;
  SetScale(&g, LoadHalf(b) * static_cast<float>((low | (high << 4)) - 32), 0.0f);
  return g;
}

// Codes of 8 bits are stored less 128, so that they fit a signed byte.
CodeGroup UnpackInt(const uint8_t* b, int bits) {
  CodeGroup g;
  const GroupBlock block(b, bits);
  const int less = bits == 8 ? 128 : 0;
  uint8_t codes[kGroupBlock];
  block.Codes(codes);
  SetCodes(&g, [&](int i) { return codes[i] - less; });
  g.offset = static_cast<float>(less - block.zero());
  SetScale(&g, block.scale(), block.scale() * g.offset);
  return g;
}

}  // namespace

CodeGroup UnpackGroup(DType type, const uint8_t* b, int index) {
  CodeGroup g;
  switch (type) {
    case DType::kQ4_0:
      SetCodes(&g, [&](int i) { return Nibble(b + 2, i); });
      SetScale(&g, LoadHalf(b), -8.0f * LoadHalf(b));
      return g;
    case DType::kQ4_1:
      SetCodes(&g, [&](int i) { return Nibble(b + 4, i); });
      SetScale(&g, LoadHalf(b), LoadHalf(b + 2));
      return g;
    case DType::kQ5_0:
      SetCodes(&g, [&](int i) { return (Nibble(b + 6, i) | FifthBit(b + 2, i)) - 16; });
      SetScale(&g, LoadHalf(b), 0.0f);
      return g;
    case DType::kQ5_1:
      SetCodes(&g, [&](int i) { return Nibble(b + 8, i) | FifthBit(b + 4, i); });
      SetScale(&g, LoadHalf(b), LoadHalf(b + 2));
      return g;
    case DType::kQ8_0:
      SetCodes(&g, [&](int i) { return static_cast<int8_t>(b[2 + i]); });
      SetScale(&g, LoadHalf(b), 0.0f);
      return g;
    case DType::kIQ4_NL:
      SetCodes(&g, [&](int i) { return kIq4Levels[Nibble(b + 2, i)]; });
      SetScale(&g, LoadHalf(b), 0.0f);
      return g;
    case DType::kQ4_K:
      SetCodes(&g, [&](int i) { return (b[16 + 32 * (index / 2) + i] >> (4 * (index % 2))) & 15; });
      SetScaleMinK4(b, index, &g);
      return g;
    case DType::kQ5_K:
      SetCodes(&g, [&](int i) {
        return ((b[48 + 32 * (index / 2) + i] >> (4 * (index % 2))) & 15) | (((b[16 + i] >> index) & 1) << 4);
      });
      SetScaleMinK4(b, index, &g);
      return g;
    case DType::kQ2_K:
      return UnpackQ2K(b, index);
    case DType::kQ3_K:
      return UnpackQ3K(b, index);
    case DType::kQ6_K:
      return UnpackQ6K(b, index);
    case DType::kIQ4_XS:
      return UnpackIq4Xs(b, index);
    case DType::kInt2:
    case DType::kInt3:
    case DType::kInt4:
    case DType::kInt8:
      return UnpackInt(b, GroupBits(type));
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kE4M3:
      break;
  }
  CHECK(false) << "tensor type id " << static_cast<int32_t>(type) << " has no codes";
  return g;
}

}  // namespace dunlin::kernels
