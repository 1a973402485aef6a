// Dequantisation bit for bit against tests/golden/dequant, and the 16-bit float conversions against slow definitions.
#include "kernels/quant_format.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/test_data.h"

namespace dunlin::kernels {
namespace {

using dunlin::testing::GoldenPath;
using dunlin::testing::ReadArray;
using dunlin::testing::ReadFile;

constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,  DType::kQ4_0,   DType::kQ4_1,   DType::kQ5_0,
                               DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,   DType::kQ3_K,   DType::kQ4_K,
                               DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS, DType::kBF16,
                               DType::kInt2, DType::kInt3, DType::kInt4,   DType::kInt8,   DType::kE4M3};

TEST(DequantizeRow, EveryGoldenVectorMatchesBitForBit) {
  const auto index = nlohmann::json::parse(ReadFile(GoldenPath("dequant/index.json")));
  std::set<int> seen;
  for (const auto& v : index["vectors"]) {
    const std::string name = v["type"];
    SCOPED_TRACE(name);
    const int id = v["ggml_type_id"];
    seen.insert(id);
    const DTypeInfo* info = FindDType(id);
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->name, name);
    EXPECT_EQ(info->block_elements, v["block_elems"].get<int>());
    EXPECT_EQ(info->block_bytes, v["block_bytes"].get<int>());
    const auto bytes = ReadArray<uint8_t>(GoldenPath(absl::StrCat("dequant/", v["data"].get<std::string>())));
    const auto want = ReadArray<float>(GoldenPath(absl::StrCat("dequant/", v["expected"].get<std::string>())));
    EXPECT_EQ(RowBytes(info->type, v["cols"].get<int64_t>()), v["row_bytes"].get<size_t>());
    std::vector<float> got(want.size(), -1.0f);
    DequantizeRow(info->type, bytes, got);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i])) << "element " << i;
    }
  }
  // The golden set covers every type of GGUF in the table but F32, whose bytes are its values. Ours (group_format_test)
  // lie beyond every id that GGUF could give.
  for (const DType type : kAllTypes) {
    if (type == DType::kF32 || static_cast<int>(type) > 1000) continue;
    EXPECT_TRUE(seen.contains(static_cast<int>(type))) << GetDTypeInfo(type).name;
  }
}

TEST(DequantizeRow, F32BytesAreReadAsTheyAreAtAnyAlignment) {
  const std::vector<float> want = {0.0f, -0.0f, 1.5f, std::numeric_limits<float>::denorm_min(),
                                   -std::numeric_limits<float>::infinity()};
  std::vector<uint8_t> bytes(1 + want.size() * 4);
  std::memcpy(bytes.data() + 1, want.data(), want.size() * 4);
  std::vector<float> got(want.size());
  DequantizeRow(DType::kF32, std::span<const uint8_t>(bytes).subspan(1), got);
  EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * 4), 0);
}

TEST(DequantizeRow, AWrongByteCountIsABug) {
  std::vector<uint8_t> bytes(17);
  std::vector<float> out(32);
  EXPECT_DEATH(DequantizeRow(DType::kQ4_0, bytes, out), "17 vs. 18");
  EXPECT_DEATH(RowBytes(DType::kQ4_0, 33), "Q4_0");
}

TEST(DTypeTable, KnowsItsTypesAndNoOthers) {
  std::set<int32_t> ids;
  for (const DType type : kAllTypes) {
    ids.insert(static_cast<int32_t>(type));
    EXPECT_EQ(GetDTypeInfo(type).type, type);
  }
  for (int32_t id = -2; id < 2000; ++id) EXPECT_EQ(FindDType(id) != nullptr, ids.contains(id)) << id;
  EXPECT_DEATH(GetDTypeInfo(static_cast<DType>(9)), "type id 9");
}

// The value of half bits by the definition of the format, in double.
double SlowHalfValue(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 0x3FF;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

bool IsHalfNan(uint16_t bits) { return (bits & 0x7C00) == 0x7C00 && (bits & 0x3FF) != 0; }
bool IsHalfInf(uint16_t bits) { return (bits & 0x7FFF) == 0x7C00; }

TEST(HalfConversion, EveryPatternDecodesExactlyAndComesBack) {
  for (uint32_t p = 0; p <= 0xFFFF; ++p) {
    const auto bits = static_cast<uint16_t>(p);
    const float f = HalfToFloat(bits);
    if (IsHalfNan(bits)) {
      ASSERT_TRUE(std::isnan(f)) << p;
    } else if (IsHalfInf(bits)) {
      ASSERT_TRUE(std::isinf(f)) << p;
    } else {
      ASSERT_EQ(static_cast<double>(f), SlowHalfValue(bits)) << p;
    }
    ASSERT_EQ(std::signbit(f), (p & 0x8000) != 0) << p;
    ASSERT_EQ(FloatToHalf(f), bits) << p;
  }
}

TEST(Bfloat16Conversion, EveryPatternDecodesExactlyAndComesBack) {
  for (uint32_t p = 0; p <= 0xFFFF; ++p) {
    const auto bits = static_cast<uint16_t>(p);
    const float f = Bfloat16ToFloat(bits);
    ASSERT_EQ(std::bit_cast<uint32_t>(f), p << 16) << p;
    ASSERT_EQ(FloatToBfloat16(f), bits) << p;
  }
}

// Nearest half by search over the sorted magnitudes 0..0x7C00 (where 0x7C00 stands for 65536, the value one step above
// the largest half), ties to the even pattern. Sums and products here are exact in double.
uint16_t SlowFloatToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  const auto value_of = [](int p) { return p == 0x7C00 ? 65536.0 : SlowHalfValue(static_cast<uint16_t>(p)); };
  if (magnitude >= 65536.0) return static_cast<uint16_t>(sign | 0x7C00);
  int low = 0;
  int high = 0x7C00;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (value_of(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - value_of(low);
  const double above = value_of(high) - magnitude;
  const int nearest = below < above ? low : (above < below ? high : (low % 2 == 0 ? low : high));
  return static_cast<uint16_t>(sign | nearest);
}

TEST(HalfConversion, RoundsToNearestEvenLikeTheSlowDefinition) {
  std::vector<float> cases = {0.0f,
                              -0.0f,
                              65504.0f,
                              65519.996f,
                              65520.0f,
                              65536.0f,
                              1e30f,
                              0x1p-25f,
                              0x1.8p-25f,
                              0x1.000002p-25f,
                              0x1p-26f,
                              std::numeric_limits<float>::denorm_min(),
                              std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::max()};
  // Every midpoint between neighbours, and the floats next to it.
  for (int p = 0; p < 0x7BFF; ++p) {
    const auto mid =
        static_cast<float>((SlowHalfValue(static_cast<uint16_t>(p)) + SlowHalfValue(static_cast<uint16_t>(p + 1))) / 2);
    cases.insert(cases.end(), {mid, std::nextafterf(mid, 0.0f), std::nextafterf(mid, 1e9f)});
  }
  std::mt19937_64 rng(7);
  for (int i = 0; i < 300000; ++i) {
    const float f = std::bit_cast<float>(static_cast<uint32_t>(rng()));
    if (!std::isnan(f)) cases.push_back(f);
    // Exponents around the range of a half, where a random pattern seldom falls.
    cases.push_back(std::ldexp(1.0f + static_cast<float>(rng() >> 40) * 0x1p-24f, static_cast<int>(rng() % 46) - 28));
  }
  for (const float f : cases) {
    ASSERT_EQ(FloatToHalf(f), SlowFloatToHalf(f)) << f;
    ASSERT_EQ(FloatToHalf(-f), SlowFloatToHalf(-f)) << -f;
  }
}

TEST(Bfloat16Conversion, PicksTheNearerNeighbourAndTheEvenOneOnTies) {
  std::mt19937_64 rng(11);
  for (int i = 0; i < 300000; ++i) {
    uint32_t bits = static_cast<uint32_t>(rng());
    if (i % 3 == 0) bits = (bits & 0xFFFF0000u) | 0x8000u;  // an exact tie
    const float f = std::bit_cast<float>(bits);
    if (!std::isfinite(f)) continue;
    const uint16_t down = static_cast<uint16_t>(bits >> 16);
    const auto up = static_cast<uint16_t>(down + 1);
    const double low = static_cast<double>(Bfloat16ToFloat(down));
    // One step above the largest finite value stands 2^128, where rounding meets infinity.
    const double high =
        (up & 0x7FFF) == 0x7F80 ? std::copysign(0x1p128, low) : static_cast<double>(Bfloat16ToFloat(up));
    const double to_low = std::fabs(static_cast<double>(f) - low);
    const double to_high = std::fabs(high - static_cast<double>(f));
    const uint16_t want = to_low < to_high ? down : (to_high < to_low ? up : (down % 2 == 0 ? down : up));
    ASSERT_EQ(FloatToBfloat16(f), want) << f;
  }
}

TEST(HalfConversion, ANanStaysANanWhateverItsPayload) {
  for (const uint32_t bits : {0x7F800001u, 0xFF800001u, 0x7FC00000u, 0x7F801FFFu, 0xFFFFFFFFu}) {
    const float f = std::bit_cast<float>(bits);
    EXPECT_TRUE(IsHalfNan(FloatToHalf(f))) << bits;
    EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(f)))) << bits;
  }
}

}  // namespace
}  // namespace dunlin::kernels
