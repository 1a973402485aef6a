// The page codecs against the golden FP8 and INT8 vectors (tests/golden/README.md, "fp8/"), and the layout against its
// own rules.
#include "kernels/paged_kv.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quant_format.h"
#include "tests/support/test_data.h"

namespace dunlin::kernels {
namespace {

using testing::GoldenPath;
using testing::ReadArray;

TEST(E4M3, DecodesEveryCode) {
  const std::vector<float> want = ReadArray<float>(GoldenPath("fp8/e4m3_decode.f32"));
  ASSERT_EQ(want.size(), 256u);
  for (int code = 0; code < 256; ++code) {
    const float got = E4M3ToFloat(static_cast<uint8_t>(code));
    if (std::isnan(want[static_cast<size_t>(code)])) {
      EXPECT_TRUE(std::isnan(got)) << code;
    } else {
      EXPECT_EQ(got, want[static_cast<size_t>(code)]) << code;
      EXPECT_EQ(std::signbit(got), std::signbit(want[static_cast<size_t>(code)])) << code;
    }
  }
}

TEST(E4M3, EncodesEveryGoldenCase) {
  const std::vector<float> in = ReadArray<float>(GoldenPath("fp8/e4m3_encode_in.f32"));
  const std::vector<uint8_t> want = ReadArray<uint8_t>(GoldenPath("fp8/e4m3_encode_out.u8"));
  ASSERT_EQ(in.size(), want.size());
  ASSERT_EQ(in.size(), 4096u);
  for (size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(FloatToE4M3(in[i]), want[i]) << "case " << i << " value " << in[i];
  }
}

TEST(QuantizeE4M3, GivesTheGoldenCodesAndExponents) {
  const std::vector<float> in = ReadArray<float>(GoldenPath("fp8/kv_in.f32"));
  const std::vector<int16_t> exponents = ReadArray<int16_t>(GoldenPath("fp8/kv_fp8_exp.i16"));
  const std::vector<uint8_t> codes = ReadArray<uint8_t>(GoldenPath("fp8/kv_fp8_codes.u8"));
  for (size_t row = 0; row < 64; ++row) {
    std::vector<uint8_t> got(64);
    uint8_t scale = 0;
    EXPECT_EQ(QuantizeE4M3(std::span(in).subspan(row * 64, 64), got.data(), 1, &scale), 0);
    EXPECT_EQ(int{scale} - 127, exponents[row]) << "row " << row;
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(got[i], codes[row * 64 + i]) << "row " << row << " value " << i;
  }
}

TEST(QuantizeInt8, GivesTheGoldenCodesAndScales) {
  const std::vector<float> in = ReadArray<float>(GoldenPath("fp8/kv_in.f32"));
  const std::vector<float> scales = ReadArray<float>(GoldenPath("fp8/kv_int8_scale.f32"));
  const std::vector<int8_t> codes = ReadArray<int8_t>(GoldenPath("fp8/kv_int8_codes.i8"));
  for (size_t row = 0; row < 64; ++row) {
    std::vector<int8_t> got(64);
    float scale = -1.0f;
    EXPECT_EQ(QuantizeInt8(std::span(in).subspan(row * 64, 64), got.data(), 1, &scale), 0);
    EXPECT_EQ(scale, scales[row]) << "row " << row;
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(got[i], codes[row * 64 + i]) << "row " << row << " value " << i;
  }
}

TEST(Quantize, NonFiniteValuesAreCountedAndNeverStoredAsNan) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {1.0f, nan, -inf, inf, -2.0f, 0.5f};
  std::vector<uint8_t> codes(x.size());
  uint8_t scale;
  EXPECT_EQ(QuantizeE4M3(x, codes.data(), 1, &scale), 3);
  EXPECT_EQ(codes[1] & 0x7F, 0);
  EXPECT_EQ(codes[2], 0xFE);
  EXPECT_EQ(codes[3], 0x7E);
  EXPECT_EQ(std::ldexp(E4M3ToFloat(codes[4]), scale - 127), -2.0f);
  std::vector<int8_t> bytes(x.size());
  float s;
  EXPECT_EQ(QuantizeInt8(x, bytes.data(), 1, &s), 3);
  EXPECT_EQ(bytes[1], 0);
  EXPECT_EQ(bytes[2], -127);
  EXPECT_EQ(bytes[3], 127);
}

struct Formats {
  KvFormat k, v;
};
class PageTest : public ::testing::TestWithParam<Formats> {};

// Every byte that a token's K, V and scales occupy belongs to that token alone, and lies inside the page.
TEST_P(PageTest, SlotsDoNotOverlapAndFillTheLayout) {
  for (const int page_tokens : {8, 16, 32, 64}) {
    const PageLayout plain = PageLayout::Create(page_tokens, 3, 2, 24, GetParam().k, GetParam().v);
    EXPECT_FALSE(plain.has_key_bounds());
    const PageLayout l = PageLayout::Create(page_tokens, 3, 2, 24, GetParam().k, GetParam().v, /*key_bounds=*/true);
    EXPECT_EQ(l.KOffset(0, 1), plain.KOffset(0, 1));
    EXPECT_EQ(l.VScaleOffset(0, 1), plain.VScaleOffset(0, 1)) << "the bounds come behind everything else";
    EXPECT_EQ(l.page_bytes % 256, 0u);
    std::vector<int> owner(l.page_bytes, -1);
    const auto claim = [&](size_t begin, size_t bytes, int who) {
      for (size_t i = begin; i < begin + bytes; ++i) {
        ASSERT_LT(i, l.page_bytes);
        ASSERT_EQ(owner[i], -1) << "byte " << i;
        owner[i] = who;
      }
    };
    const size_t kb = KvValueBytes(l.k_format), vb = KvValueBytes(l.v_format);
    for (int layer = 0; layer < 3; ++layer) {
      for (int head = 0; head < 2; ++head) {
        claim(l.KBoundsOffset(layer, head), 2 * 24 * 2, page_tokens);
        for (int slot = 0; slot < page_tokens; ++slot) {
          const auto t = static_cast<size_t>(slot);
          for (size_t d = 0; d < 24; ++d) {
            claim(l.KOffset(layer, head) + (d * static_cast<size_t>(page_tokens) + t) * kb, kb, slot);
            claim(l.VOffset(layer, head) + (t * 24 + d) * vb, vb, slot);
          }
          claim(l.KScaleOffset(layer, head) + t * KvScaleBytes(l.k_format), KvScaleBytes(l.k_format), slot);
          claim(l.VScaleOffset(layer, head) + t * KvScaleBytes(l.v_format), KvScaleBytes(l.v_format), slot);
        }
      }
    }
  }
}

// What is read back is what the format rounds to, and writing one slot leaves every other one as it was.
TEST_P(PageTest, ATokenReadsBackAsItsFormatRoundsIt) {
  const PageLayout l = PageLayout::Create(16, 2, 3, 40, GetParam().k, GetParam().v);
  std::vector<uint8_t> page(l.page_bytes, 0x7F);
  std::mt19937 rng(11);
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> ks, vs;
  for (int slot = 0; slot < 16; ++slot) {
    std::vector<float> k(3 * 40), v(3 * 40);
    for (float& x : k) x = normal(rng) * 3.0f;
    for (float& x : v) x = normal(rng) * 0.1f;
    EXPECT_EQ(AppendToken(l, page.data(), 1, slot, k.data(), v.data()), 0);
    ks.push_back(k);
    vs.push_back(v);
  }
  // Largest relative error of a value against its head's largest: half a step of the format.
  const auto bound = [](KvFormat f) {
    switch (f) {
      case KvFormat::kF32:
        return 0.0f;
      case KvFormat::kF16:
        return 0x1p-11f;
      case KvFormat::kBF16:
        return 0x1p-8f;
      case KvFormat::kE4M3:
        return 0x1p-4f;
      case KvFormat::kInt8:
        return 0.5f / 127.0f * 1.0001f;
    }
    return 0.0f;
  };
  for (int slot = 0; slot < 16; ++slot) {
    for (int head = 0; head < 3; ++head) {
      std::vector<float> k(40), v(40);
      ReadKey(l, page.data(), 1, head, slot, k.data());
      ReadValue(l, page.data(), 1, head, slot, v.data());
      float k_max = 0.0f, v_max = 0.0f;
      for (size_t d = 0; d < 40; ++d) {
        k_max = std::max(k_max, std::fabs(ks[static_cast<size_t>(slot)][static_cast<size_t>(head) * 40 + d]));
        v_max = std::max(v_max, std::fabs(vs[static_cast<size_t>(slot)][static_cast<size_t>(head) * 40 + d]));
      }
      for (size_t d = 0; d < 40; ++d) {
        const float k_want = ks[static_cast<size_t>(slot)][static_cast<size_t>(head) * 40 + d];
        const float v_want = vs[static_cast<size_t>(slot)][static_cast<size_t>(head) * 40 + d];
        EXPECT_TRUE(std::fabs(k[d] - k_want) <= bound(l.k_format) * k_max) << k[d] << " for " << k_want;
        EXPECT_TRUE(std::fabs(v[d] - v_want) <= bound(l.v_format) * v_max) << v[d] << " for " << v_want;
      }
    }
  }
  // Layer 0 was never written.
  for (size_t i = 0; i < l.layer_bytes; ++i) ASSERT_EQ(page[i], 0x7F) << i;
}

// The largest bfloat16 that is not above x (for a maximum: the smallest not below), found by trying neighbours.
float Outward(float x, bool is_max) {
  uint16_t bits;
  std::memcpy(&bits, reinterpret_cast<const char*>(&x) + 2, 2);
  float best = is_max ? INFINITY : -INFINITY;
  for (const int step : {-1, 0, 1}) {
    const float near = Bfloat16ToFloat(static_cast<uint16_t>(bits + step));
    if (is_max ? near >= x && near < best : near <= x && near > best) best = near;
  }
  return best;
}

TEST_P(PageTest, KeyBoundsAreTheTightestBfloat16AroundWhatReadsBack) {
  const PageLayout l = PageLayout::Create(16, 2, 3, 40, GetParam().k, GetParam().v, /*key_bounds=*/true);
  std::mt19937 rng(12);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> page(l.page_bytes, 0x7F);
  for (int slot = 0; slot < 16; ++slot) {
    std::vector<float> k(3 * 40);
    for (size_t i = 0; i < k.size(); ++i) k[i] = (i % 3 == 0 ? std::fabs(normal(rng)) : normal(rng)) + 0.1f;
    k[5] = -0.0f;
    AppendToken(l, page.data(), 1, slot, k.data(), k.data());
  }
  const std::vector<uint8_t> before = page;
  WriteKeyBounds(l, page.data(), 1);
  for (size_t i = 0; i < l.page_bytes; ++i) {
    if (i >= l.KBoundsOffset(1, 0) && i < l.KBoundsOffset(1, 0) + 3 * 40 * 4) continue;
    ASSERT_EQ(page[i], before[i]) << "byte " << i;
  }
  for (int head = 0; head < 3; ++head) {
    float min[40], max[40];
    ReadKeyBounds(l, page.data(), 1, head, min, max);
    for (int d = 0; d < 40; ++d) {
      float low = INFINITY, high = -INFINITY;
      for (int slot = 0; slot < 16; ++slot) {
        float key[40];
        ReadKey(l, page.data(), 1, head, slot, key);
        low = std::fmin(low, key[d]);
        high = std::fmax(high, key[d]);
      }
      EXPECT_EQ(min[d], Outward(low, false)) << "head " << head << " dim " << d;
      EXPECT_EQ(max[d], Outward(high, true)) << "head " << head << " dim " << d;
      uint16_t bits;
      std::memcpy(&bits, page.data() + l.KBoundsOffset(1, head) + 2 * static_cast<size_t>(d), 2);
      EXPECT_NE(bits, 0x8000) << "zero is +0";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, PageTest,
    ::testing::Values(Formats{KvFormat::kE4M3, KvFormat::kE4M3}, Formats{KvFormat::kInt8, KvFormat::kInt8},
                      Formats{KvFormat::kInt8, KvFormat::kE4M3}, Formats{KvFormat::kF16, KvFormat::kF16},
                      Formats{KvFormat::kBF16, KvFormat::kBF16}, Formats{KvFormat::kF32, KvFormat::kF32}));

TEST(PageLayout, TheDefaultModelsPageHasTheSizeOfTheFormatDocument) {
  // 30 layers x 3 heads x 16 tokens x (64 + 64 codes + 2 scale bytes) = 187,200 bytes, rounded up per layer to 64 bytes
  // and per page to 256.
  const PageLayout l = PageLayout::Create(16, 30, 3, 64, KvFormat::kE4M3, KvFormat::kE4M3);
  EXPECT_EQ(l.layer_bytes, 6272u);  // 6,240 used
  EXPECT_EQ(l.page_bytes, 188160u);
  EXPECT_EQ(l.TokenLayerBytes(), 390u);
  const PageLayout bounded = PageLayout::Create(16, 30, 3, 64, KvFormat::kE4M3, KvFormat::kE4M3, /*key_bounds=*/true);
  EXPECT_EQ(bounded.k_bounds_offset, 6272u);
  EXPECT_EQ(bounded.layer_bytes, 7040u);
  EXPECT_EQ(bounded.page_bytes, 211200u);
}

// The device's order holds the same values and scales as the host's; a row is the formula of FORMAT.md.
TEST(PageLayout, TheDeviceOrderIsAPermutationOfTheRows) {
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8, KvFormat::kF16}) {
    for (const int dim : {16, 64, 96, 128, 256}) {
      SCOPED_TRACE(static_cast<int>(format) * 1000 + dim);
      const PageLayout host = PageLayout::Create(16, 2, 3, dim, format, KvFormat::kE4M3);
      const PageLayout device =
          PageLayout::Create(16, 2, 3, dim, format, KvFormat::kE4M3, /*key_bounds=*/false, SlabOrder::kDevice);
      ASSERT_EQ(host.page_bytes, device.page_bytes);
      std::vector<uint8_t> a(host.page_bytes, 0xFF), b(host.page_bytes, 0xFF);
      std::mt19937 random(static_cast<uint32_t>(dim));
      std::normal_distribution<float> normal;
      for (int slot = 0; slot < 16; ++slot) {
        std::vector<float> k(static_cast<size_t>(3 * dim)), v(k.size());
        for (float& x : k) x = normal(random);
        for (float& x : v) x = normal(random);
        EXPECT_EQ(AppendToken(host, a.data(), 1, slot, k.data(), v.data()),
                  AppendToken(device, b.data(), 1, slot, k.data(), v.data()));
      }
      std::vector<float> want(static_cast<size_t>(dim)), got(want.size());
      for (int head = 0; head < 3; ++head) {
        for (int slot = 0; slot < 16; ++slot) {
          ReadKey(host, a.data(), 1, head, slot, want.data());
          ReadKey(device, b.data(), 1, head, slot, got.data());
          EXPECT_EQ(want, got);
          ReadValue(host, a.data(), 1, head, slot, want.data());
          ReadValue(device, b.data(), 1, head, slot, got.data());
          EXPECT_EQ(want, got);
          for (int d = 0; d < dim; ++d) {
            const size_t chunks = static_cast<size_t>(dim) / 16, t = static_cast<size_t>(slot);
            const size_t mask = chunks % 8 == 0 ? t & 7 : chunks % 4 == 0 ? t >> 1 & 2 : 0;
            const size_t chunk = (static_cast<size_t>(d) / 16) ^ mask;
            const size_t at = device.LayerOffset(1) + device.v_offset +
                              static_cast<size_t>(head) * 16 * static_cast<size_t>(dim) + t * static_cast<size_t>(dim) +
                              chunk * 16 + static_cast<size_t>(d) % 16;
            const size_t host_at = host.VOffset(1, head) + (t * static_cast<size_t>(dim) + static_cast<size_t>(d));
            EXPECT_EQ(b[at], a[host_at]);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels
