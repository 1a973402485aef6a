// dev.h's own code and the instructions' meaning, against plain definitions.
#include "kernels/cuda/dev.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/paged_kv.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels::cuda {
namespace {

TEST(Dev, TheSoftwareConversionIsExactForEveryFiniteCode) {
  for (uint32_t code = 0; code < 256; ++code) {
    if ((code & 0x7F) == 0x7F) continue;  // NaN is never stored
    uint32_t half2[2];
    dev::E4M3ToHalf(code | 0x38 << 8 | code << 16 | code << 24, half2);
    const float want = E4M3ToFloat(static_cast<uint8_t>(code)) / dev::kE4M3Unit;
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[0])), want) << code;
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[0] >> 16)), 1.0f / dev::kE4M3Unit) << code;
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[1])), want) << code;
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[1] >> 16)), want) << code;
  }
}

TEST(Dev, Int8ToHalfIsExact) {
  for (int code = -128; code < 128; ++code) {
    uint32_t half2[2];
    const uint32_t byte = static_cast<uint8_t>(code);
    dev::Int8ToHalf(byte | 0xFFu << 8 | byte << 16 | 5u << 24, half2);
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[0])), static_cast<float>(code));
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[0] >> 16)), -1.0f);
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[1])), static_cast<float>(code));
    EXPECT_EQ(HalfToFloat(static_cast<uint16_t>(half2[1] >> 16)), 5.0f);
  }
}

TEST(Dev, Dp2aTakesTheLowTwoBytes) {
  const uint32_t sums = static_cast<uint16_t>(-2032) | static_cast<uint32_t>(1905) << 16;
  EXPECT_EQ(dev::Dp2a(sums, 0x7F7FF801u, 7), 7 - 2032 - 8 * 1905);
}

TEST(Dev, FloatToE4M3IsTheDefinition) {
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 40961) {
    const float value = dev::BitsToFloat(static_cast<uint32_t>(bits));
    if (!std::isfinite(value)) continue;
    ASSERT_EQ(dev::FloatToE4M3(value), kernels::FloatToE4M3(value)) << value;
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
