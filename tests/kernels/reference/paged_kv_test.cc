// The page layout and its codecs against the golden FP8 and INT8 vectors.
#include "kernels/paged_kv.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/test_data.h"

namespace dunlin::kernels {
namespace {

using testing::GoldenPath;
using testing::ReadArray;

constexpr KvFormat kFormats[] = {KvFormat::kF32, KvFormat::kF16, KvFormat::kBF16, KvFormat::kE4M3, KvFormat::kInt8};

uint32_t Bits(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

TEST(E4M3, DecodesEveryCodeAsTheGoldenTable) {
  const std::vector<float> table = ReadArray<float>(GoldenPath("fp8/e4m3_decode.f32"));
  ASSERT_EQ(table.size(), 256u);
  for (size_t code = 0; code < 256; ++code) {
    const float value = E4M3ToFloat(static_cast<uint8_t>(code));
    if (std::isnan(table[code])) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(Bits(value), Bits(table[code])) << code;
    }
  }
}

TEST(E4M3, EncodesEveryGoldenCase) {
  const std::vector<float> in = ReadArray<float>(GoldenPath("fp8/e4m3_encode_in.f32"));
  const std::vector<uint8_t> out = ReadArray<uint8_t>(GoldenPath("fp8/e4m3_encode_out.u8"));
  ASSERT_EQ(in.size(), 4096u);
  ASSERT_EQ(out.size(), in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    const uint8_t code = FloatToE4M3(in[i]);
    if (std::isnan(in[i])) {
      EXPECT_EQ(code, 0x7F);
    } else {
      EXPECT_EQ(code, out[i]) << in[i];
    }
  }
}

TEST(E4M3, EveryFiniteCodeSurvivesARoundTrip) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7F) == 0x7F) continue;
    EXPECT_EQ(FloatToE4M3(E4M3ToFloat(static_cast<uint8_t>(code))), code);
  }
}

TEST(QuantizeE4M3, MatchesTheGoldenVectors) {
  const std::vector<float> in = ReadArray<float>(GoldenPath("fp8/kv_in.f32"));
  const std::vector<int16_t> exponents = ReadArray<int16_t>(GoldenPath("fp8/kv_fp8_exp.i16"));
  const std::vector<uint8_t> codes = ReadArray<uint8_t>(GoldenPath("fp8/kv_fp8_codes.u8"));
  ASSERT_EQ(in.size(), 64u * 64u);
  for (size_t row = 0; row < 64; ++row) {
    std::vector<uint8_t> out(64 * 3, 0xAA);
    uint8_t scale = 0;
    EXPECT_EQ(QuantizeE4M3({&in[row * 64], 64}, out.data(), 3, &scale), 0);
    EXPECT_EQ(int{scale} - 127, exponents[row]) << row;
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(out[i * 3], codes[row * 64 + i]) << row << ' ' << i;
      EXPECT_EQ(out[i * 3 + 1], 0xAA) << "wrote between the strides";
    }
  }
}

TEST(QuantizeInt8, MatchesTheGoldenVectors) {
  const std::vector<float> in = ReadArray<float>(GoldenPath("fp8/kv_in.f32"));
  const std::vector<float> scales = ReadArray<float>(GoldenPath("fp8/kv_int8_scale.f32"));
  const std::vector<int8_t> codes = ReadArray<int8_t>(GoldenPath("fp8/kv_int8_codes.i8"));
  for (size_t row = 0; row < 64; ++row) {
    std::vector<int8_t> out(64);
    float scale = -1.0f;
    EXPECT_EQ(QuantizeInt8({&in[row * 64], 64}, out.data(), 1, &scale), 0);
    EXPECT_EQ(Bits(scale), Bits(scales[row])) << row;
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(out[i], codes[row * 64 + i]) << row << ' ' << i;
  }
}

TEST(Quantize, CountsNonFiniteValuesAndKeepsTheRest) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {1.0f, inf, -inf, std::nanf(""), -0.5f};
  uint8_t codes[5];
  uint8_t scale;
  EXPECT_EQ(QuantizeE4M3(x, codes, 1, &scale), 3);
  const float unit = std::ldexp(1.0f, int{scale} - 127);
  EXPECT_EQ(E4M3ToFloat(codes[0]) * unit, 1.0f);
  EXPECT_EQ(E4M3ToFloat(codes[1]), 448.0f);
  EXPECT_EQ(E4M3ToFloat(codes[2]), -448.0f);
  EXPECT_EQ(E4M3ToFloat(codes[3]), 0.0f);
  EXPECT_EQ(E4M3ToFloat(codes[4]) * unit, -0.5f);
  int8_t ints[5];
  float s;
  EXPECT_EQ(QuantizeInt8(x, ints, 1, &s), 3);
  EXPECT_EQ(s, 1.0f / 127.0f);
  EXPECT_EQ(ints[1], 127);
  EXPECT_EQ(ints[2], -127);
  EXPECT_EQ(ints[3], 0);
}

TEST(Quantize, HoldsTheSmallestAndLargestFloats) {
  for (const float amax : {std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min(), 1e-30f, 448.0f,
                           std::nextafter(448.0f, 449.0f), std::numeric_limits<float>::max()}) {
    const std::vector<float> x = {amax, -amax, 0.0f};
    uint8_t codes[3];
    uint8_t scale;
    EXPECT_EQ(QuantizeE4M3(x, codes, 1, &scale), 0);
    EXPECT_EQ(codes[1], codes[0] | 0x80);
    // The exponent is the smallest allowed one: one less would not fit (where UE8M0 has one less).
    const double unit = std::ldexp(1.0, int{scale} - 127);
    EXPECT_LE(static_cast<double>(amax) / unit, 448.0);
    if (scale > 0) {
      EXPECT_GT(static_cast<double>(amax) / (unit / 2), 448.0);
    }
    EXPECT_NEAR(static_cast<double>(E4M3ToFloat(codes[0])) * unit, static_cast<double>(amax),
                std::max(static_cast<double>(amax) / 16, unit * 0x1p-10));
  }
}

struct Section {
  size_t begin;
  size_t end;
};

TEST(PageLayout, SectionsLieSideBySideWithoutOverlap) {
  for (const KvFormat k : kFormats) {
    for (const KvFormat v : kFormats) {
      for (const int page_tokens : {8, 16, 64}) {
        const PageLayout l = PageLayout::Create(page_tokens, 3, 5, 48, k, v);
        const auto tokens = static_cast<size_t>(page_tokens);
        std::vector<Section> sections;
        for (int layer = 0; layer < 3; ++layer) {
          for (int h = 0; h < 5; ++h) {
            sections.push_back({l.KOffset(layer, h), l.KOffset(layer, h) + tokens * 48 * KvValueBytes(k)});
            sections.push_back({l.VOffset(layer, h), l.VOffset(layer, h) + tokens * 48 * KvValueBytes(v)});
            sections.push_back({l.KScaleOffset(layer, h), l.KScaleOffset(layer, h) + tokens * KvScaleBytes(k)});
            sections.push_back({l.VScaleOffset(layer, h), l.VScaleOffset(layer, h) + tokens * KvScaleBytes(v)});
          }
        }
        std::vector<int> owner(l.page_bytes, -1);
        for (size_t s = 0; s < sections.size(); ++s) {
          ASSERT_LE(sections[s].end, l.page_bytes);
          for (size_t b = sections[s].begin; b < sections[s].end; ++b) {
            ASSERT_EQ(owner[b], -1) << "byte " << b << " belongs to two sections";
            owner[b] = static_cast<int>(s);
          }
        }
        EXPECT_EQ(l.page_bytes % 256, 0u);
        EXPECT_EQ(l.layer_bytes % 64, 0u);
        EXPECT_EQ(l.v_offset % 64, 0u);
        EXPECT_EQ(l.k_scale_offset % 4, 0u);
        EXPECT_EQ(l.v_scale_offset % 4, 0u);
      }
    }
  }
}

TEST(PageLayout, CountsTheBytesOfATokenByHand) {
  // Three heads of 64: K and V in one byte each, one scale byte each: 3 * (64 + 64 + 1 + 1).
  EXPECT_EQ(PageLayout::Create(16, 30, 3, 64, KvFormat::kE4M3, KvFormat::kE4M3).TokenLayerBytes(), 390u);
  EXPECT_EQ(PageLayout::Create(16, 30, 3, 64, KvFormat::kInt8, KvFormat::kE4M3).TokenLayerBytes(), 3u * (128 + 4 + 1));
  EXPECT_EQ(PageLayout::Create(16, 30, 3, 64, KvFormat::kF32, KvFormat::kF16).TokenLayerBytes(), 3u * (256 + 128));
}

// What a value becomes in a format, by the format's own error bound.
double Tolerance(KvFormat f, double value, double amax) {
  switch (f) {
    case KvFormat::kF32:
      return 0.0;
    case KvFormat::kF16:
      return std::fabs(value) * 0x1p-11 + 0x1p-25;
    case KvFormat::kBF16:
      return std::fabs(value) * 0x1p-8;
    case KvFormat::kE4M3:
      return std::fabs(value) * 0x1p-4 + amax / 448 * 0x1p-9;
    case KvFormat::kInt8:
      return amax / 127 * 0.5001;
  }
  return 0.0;
}

TEST(Pages, ReadBackWhatWasAppendedInEveryFormat) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  for (const KvFormat kf : kFormats) {
    for (const KvFormat vf : kFormats) {
      const int heads = 3, dim = 40, layers = 2;
      const PageLayout l = PageLayout::Create(16, layers, heads, dim, kf, vf);
      std::vector<uint8_t> page(l.page_bytes, 0xCD);
      std::vector<std::vector<float>> keys, values;
      for (int i = 0; i < layers * 16; ++i) {
        std::vector<float> k(static_cast<size_t>(heads * dim)), v(k.size());
        for (float& x : k) x = normal(rng);
        for (float& x : v) x = normal(rng);
        // Out of order, so that a slot's write cannot lean on its neighbour's.
        EXPECT_EQ(AppendToken(l, page.data(), i / 16, i * 7 % 16, k.data(), v.data()), 0);
        keys.push_back(k);
        values.push_back(v);
      }
      for (int i = 0; i < layers * 16; ++i) {
        for (int h = 0; h < heads; ++h) {
          std::vector<float> k(static_cast<size_t>(dim)), v(k.size());
          ReadKey(l, page.data(), i / 16, h, i * 7 % 16, k.data());
          ReadValue(l, page.data(), i / 16, h, i * 7 % 16, v.data());
          const float* want_k = &keys[static_cast<size_t>(i)][static_cast<size_t>(h * dim)];
          const float* want_v = &values[static_cast<size_t>(i)][static_cast<size_t>(h * dim)];
          double k_max = 0.0, v_max = 0.0;
          for (int d = 0; d < dim; ++d) {
            k_max = std::max(k_max, std::fabs(static_cast<double>(want_k[d])));
            v_max = std::max(v_max, std::fabs(static_cast<double>(want_v[d])));
          }
          for (int d = 0; d < dim; ++d) {
            const double wk = static_cast<double>(want_k[d]), wv = static_cast<double>(want_v[d]);
            ASSERT_LE(std::fabs(static_cast<double>(k[static_cast<size_t>(d)]) - wk), Tolerance(kf, wk, k_max));
            ASSERT_LE(std::fabs(static_cast<double>(v[static_cast<size_t>(d)]) - wv), Tolerance(vf, wv, v_max));
          }
        }
      }
    }
  }
}

TEST(Pages, KeysOfOneDimensionAreAdjacentOverTokens) {
  const PageLayout l = PageLayout::Create(16, 1, 1, 4, KvFormat::kF32, KvFormat::kF32);
  std::vector<uint8_t> page(l.page_bytes);
  for (int t = 0; t < 16; ++t) {
    const float base = static_cast<float>(100 * t);
    const float k[4] = {base, base + 1, base + 2, base + 3};
    AppendToken(l, page.data(), 0, t, k, k);
  }
  std::vector<float> floats(l.page_bytes / 4);
  std::memcpy(floats.data(), page.data(), floats.size() * 4);
  EXPECT_EQ(floats[l.KOffset(0, 0) / 4 + 16 * 2 + 5], 502.0f);  // [dim 2][token 5]
  EXPECT_EQ(floats[l.VOffset(0, 0) / 4 + 4 * 5 + 2], 502.0f);   // [token 5][dim 2]
}

}  // namespace
}  // namespace dunlin::kernels
