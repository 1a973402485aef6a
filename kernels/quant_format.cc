#include "kernels/quant_format.h"

#include <bit>

#include "base/check.h"
#include "kernels/group_format.h"
#include "kernels/quant_format_blocks.h"

namespace dunlin::kernels {
namespace {

using quant_internal::kIq4Levels;
using quant_internal::LoadHalf;
using quant_internal::LoadU16;

constexpr int kBlock = 32;

// In every 32-element block byte j holds element j in its low nibble and element j + 16 in its high nibble.
template <typename Value>
void ForEachNibble(const uint8_t* qs, float* out, Value value) {
  for (int j = 0; j < kBlock / 2; ++j) {
    out[j] = value(qs[j] & 15, j);
    out[j + kBlock / 2] = value(qs[j] >> 4, j + kBlock / 2);
  }
}

uint32_t LoadU32(const uint8_t* p) {
  return static_cast<uint32_t>(LoadU16(p)) | (static_cast<uint32_t>(LoadU16(p + 2)) << 16);
}

int FifthBit(uint32_t qh, int j) { return static_cast<int>((qh >> j) & 1u) << 4; }

void DecodeQ4_0(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  ForEachNibble(b + 2, out, [=](int q, int) { return d * static_cast<float>(q - 8); });
}

void DecodeQ4_1(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  const float m = LoadHalf(b + 2);
  ForEachNibble(b + 4, out, [=](int q, int) { return d * static_cast<float>(q) + m; });
}

void DecodeQ5_0(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  const uint32_t qh = LoadU32(b + 2);
  ForEachNibble(b + 6, out, [=](int q, int j) { return d * static_cast<float>((q | FifthBit(qh, j)) - 16); });
}

void DecodeQ5_1(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  const float m = LoadHalf(b + 2);
  const uint32_t qh = LoadU32(b + 4);
  ForEachNibble(b + 8, out, [=](int q, int j) { return d * static_cast<float>(q | FifthBit(qh, j)) + m; });
}

void DecodeQ8_0(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  for (int j = 0; j < kBlock; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(b[2 + j]));
}

void DecodeIq4Nl(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  ForEachNibble(b + 2, out, [=](int q, int) { return d * static_cast<float>(kIq4Levels[q]); });
}

template <int kBits>
void DecodeInt(const uint8_t* b, float* out) {
  const GroupBlock block(b, kBits);
  uint8_t codes[kGroupBlock];
  block.Codes(codes);
  for (int j = 0; j < kBlock; ++j) out[j] = block.scale() * static_cast<float>(codes[j] - block.zero());
}

void DecodeE4M3(const uint8_t* b, float* out) {
  const float d = LoadHalf(b);
  for (int j = 0; j < kBlock; ++j) {
    const uint8_t code = b[2 + j];
    // As the bits of a half, whose exponent is one bit wider and whose bias is 8 more, it is 2^-8 of the value.
    const auto half = static_cast<uint16_t>((code & 0x80) << 8 | (code & 0x7F) << 7);
    out[j] = (code & 0x7F) == 0x7F ? HalfToFloat(0x7E00) : d * (HalfToFloat(half) * 0x1p8f);
  }
}

void DecodeF32(const uint8_t* b, float* out) { *out = std::bit_cast<float>(LoadU32(b)); }
void DecodeF16(const uint8_t* b, float* out) { *out = LoadHalf(b); }
void DecodeBf16(const uint8_t* b, float* out) { *out = Bfloat16ToFloat(LoadU16(b)); }

using BlockDecoder = void (*)(const uint8_t* block, float* out);

BlockDecoder FindDecoder(DType type) {
  switch (type) {
    case DType::kF32:
      return DecodeF32;
    case DType::kF16:
      return DecodeF16;
    case DType::kBF16:
      return DecodeBf16;
    case DType::kQ4_0:
      return DecodeQ4_0;
    case DType::kQ4_1:
      return DecodeQ4_1;
    case DType::kQ5_0:
      return DecodeQ5_0;
    case DType::kQ5_1:
      return DecodeQ5_1;
    case DType::kQ8_0:
      return DecodeQ8_0;
    case DType::kQ2_K:
      return quant_internal::DecodeQ2K;
    case DType::kQ3_K:
      return quant_internal::DecodeQ3K;
    case DType::kQ4_K:
      return quant_internal::DecodeQ4K;
    case DType::kQ5_K:
      return quant_internal::DecodeQ5K;
    case DType::kQ6_K:
      return quant_internal::DecodeQ6K;
    case DType::kIQ4_NL:
      return DecodeIq4Nl;
    case DType::kIQ4_XS:
      return quant_internal::DecodeIq4Xs;
    case DType::kInt2:
      return DecodeInt<2>;
    case DType::kInt3:
      return DecodeInt<3>;
    case DType::kInt4:
      return DecodeInt<4>;
    case DType::kInt8:
      return DecodeInt<8>;
    case DType::kE4M3:
      return DecodeE4M3;
  }
  CHECK(false) << "no decoder for tensor type id " << static_cast<int32_t>(type);
  return nullptr;
}

}  // namespace

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 31u;
  const uint32_t fraction = bits & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 127 - 15) << 23) | (fraction << 13));
  // Subnormal or zero: fraction * 2^-24, exact in a float.
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

float Bfloat16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {  // NaN: keep what fits of the payload, and never turn it into an infinity
    const uint32_t payload = (magnitude >> 13) & 0x3FFu;
    return static_cast<uint16_t>(sign | 0x7C00u | (payload != 0 ? payload : 0x200u));
  }
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7C00u);  // |value| >= 2^16, infinity too
  if (magnitude < 0x38800000u) {                                               // below 2^-14: a multiple of 2^-24
    // Adding 0.5 places the wanted unit (2^-24) at the float's last bit, so the addition itself rounds to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f)));
  }
  // Normal: add half of the dropped part (less one unless the kept part is odd); a carry moves into the exponent, and
  // past the largest half into infinity.
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - ((127u - 15u) << 23)) >> 13));
}

uint16_t FloatToBfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {  // NaN whose payload may lie in the dropped half
    const uint32_t top = bits >> 16;
    return static_cast<uint16_t>((top & 0x7Fu) != 0 ? top : (top | 0x40u));
  }
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

size_t RowBytes(DType type, int64_t num_elements) {
  const DTypeInfo& info = GetDTypeInfo(type);
  CHECK_GE(num_elements, 0);
  CHECK_EQ(num_elements % info.block_elements, 0) << "elements of " << info.name;
  return static_cast<size_t>(num_elements / info.block_elements) * static_cast<size_t>(info.block_bytes);
}

void DequantizeRow(DType type, std::span<const uint8_t> src, std::span<float> out) {
  CHECK_EQ(src.size(), RowBytes(type, static_cast<int64_t>(out.size())));
  const DTypeInfo& info = GetDTypeInfo(type);
  const BlockDecoder decode = FindDecoder(type);
  const uint8_t* block = src.data();
  for (size_t i = 0; i < out.size(); i += static_cast<size_t>(info.block_elements)) {
    decode(block, out.data() + i);
    block += info.block_bytes;
  }
}

}  // namespace dunlin::kernels
