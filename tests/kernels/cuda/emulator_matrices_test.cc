// The matrix instructions of the emulator against plain products of matrices, through the layouts that dev.h documents.
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/quant_format.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::Random;
constexpr int kTrials = 20;

uint32_t Half2At(const uint16_t* p) { return p[0] | static_cast<uint32_t>(p[1]) << 16; }
uint32_t Half2At(const uint16_t* low, const uint16_t* high) { return *low | static_cast<uint32_t>(*high) << 16; }

// a [16][16], b [16][8] halves; d [16][8]: d += a b.
DUNLIN_KERNEL(32, 1) void MultiplyF16(const uint16_t* a, const uint16_t* b, float* d) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  const uint32_t fa[4] = {Half2At(a + g * 16 + 2 * t), Half2At(a + (g + 8) * 16 + 2 * t),
                          Half2At(a + g * 16 + 2 * t + 8), Half2At(a + (g + 8) * 16 + 2 * t + 8)};
  const uint32_t fb[2] = {Half2At(b + 2 * t * 8 + g, b + (2 * t + 1) * 8 + g),
                          Half2At(b + (2 * t + 8) * 8 + g, b + (2 * t + 9) * 8 + g)};
  float* const at[4] = {d + g * 8 + 2 * t, d + g * 8 + 2 * t + 1, d + (g + 8) * 8 + 2 * t, d + (g + 8) * 8 + 2 * t + 1};
  float c[4] = {*at[0], *at[1], *at[2], *at[3]};
  dev::MmaF16(c, fa, fb);
  for (int i = 0; i < 4; ++i) *at[i] = c[i];
}

// Four codes, `step` apart.
uint32_t CodesAt(const int8_t* p, int step) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(static_cast<uint8_t>(p[i * step])) << (8 * i);
  return word;
}

// a [16][32], b [32][8]; d [16][8]: d += a b.
DUNLIN_KERNEL(32, 1) void MultiplyS8(const int8_t* a, const int8_t* b, int32_t* d) {
  const int g = dev::Lane() / 4, t = dev::Lane() % 4;
  const uint32_t fa[4] = {CodesAt(a + g * 32 + 4 * t, 1), CodesAt(a + (g + 8) * 32 + 4 * t, 1),
                          CodesAt(a + g * 32 + 4 * t + 16, 1), CodesAt(a + (g + 8) * 32 + 4 * t + 16, 1)};
  const uint32_t fb[2] = {CodesAt(b + 4 * t * 8 + g, 8), CodesAt(b + (4 * t + 16) * 8 + g, 8)};
  int32_t* const at[4] = {d + g * 8 + 2 * t, d + g * 8 + 2 * t + 1, d + (g + 8) * 8 + 2 * t,
                          d + (g + 8) * 8 + 2 * t + 1};
  int32_t c[4] = {*at[0], *at[1], *at[2], *at[3]};
  dev::MmaS8(c, fa, fb);
  for (int i = 0; i < 4; ++i) *at[i] = c[i];
}

// in, out: 8x8 of 16-bit values.
DUNLIN_KERNEL(32, 1) void Transpose(const uint16_t* in, uint16_t* out) {
  const int row = dev::Lane() / 4, col = dev::Lane() % 4 * 2;
  const uint32_t y = dev::Movmatrix(Half2At(in + row * 8 + col));
  out[row * 8 + col] = static_cast<uint16_t>(y);
  out[row * 8 + col + 1] = static_cast<uint16_t>(y >> 16);
}

// in: 32 rows of 8, row `order[l]` for lane l; out: four 8x8.
template <bool kTransposed>
DUNLIN_KERNEL(32, 1)
void LoadFour(const uint16_t* in, const int32_t* order, uint16_t* out) {
  constexpr int kPitch = 24;  // halves: rows need not be dense
  auto* rows = reinterpret_cast<uint16_t*>(dev::Shared());
  for (int i = dev::Lane(); i < 256; i += 32) rows[i / 8 * kPitch + i % 8] = in[i];
  dev::SyncWarp();
  uint32_t r[4];
  const uint16_t* mine = rows + order[dev::Lane()] * kPitch;
  if (kTransposed) {
    dev::LdMatrix4Trans(r, mine);
  } else {
    dev::LdMatrix4(r, mine);
  }
  for (int m = 0; m < 4; ++m) {
    uint16_t* to = out + m * 64 + dev::Lane() / 4 * 8 + dev::Lane() % 4 * 2;
    to[0] = static_cast<uint16_t>(r[m]);
    to[1] = static_cast<uint16_t>(r[m] >> 16);
  }
}

class EmulatorMatrices : public testing::DeviceTest {
 protected:
  Random random_{5};
  std::vector<uint16_t> Words16(size_t n) {
    std::vector<uint16_t> words(n);
    for (uint16_t& w : words) w = static_cast<uint16_t>(random_.Int(0, 65535));
    return words;
  }
  std::vector<uint16_t> Halves(size_t n) {
    std::vector<uint16_t> words(n);
    for (uint16_t& w : words) w = FloatToHalf(random_.Normal());
    return words;
  }
};

TEST_F(EmulatorMatrices, MmaF16IsTheProductWithinAUnitOfTheLastPlace) {
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto a = Halves(256), b = Halves(128);
    const auto c = random_.Normals(128);
    const auto d_a = Upload(a), d_b = Upload(b);
    const auto d = Upload(c);
    DUNLIN_LAUNCH(device_, (LaunchConfig{.threads = 32}), MultiplyF16, d_a.data(), d_b.data(), d.data());
    const auto got = Download(d);
    for (size_t i = 0; i < 128; ++i) {
      double want = double{c[i]};
      for (size_t k = 0; k < 16; ++k) {
        want += double{HalfToFloat(a[i / 8 * 16 + k])} * double{HalfToFloat(b[k * 8 + i % 8])};
      }
      const auto nearest = static_cast<float>(want);
      const float ulp = std::nextafter(std::fabs(nearest), INFINITY) - std::fabs(nearest);
      EXPECT_TRUE(std::fabs(double{got[i]} - want) <= double{ulp}) << got[i] << " for " << want;
    }
  }
}

TEST_F(EmulatorMatrices, MmaS8IsTheProduct) {
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<int8_t> a(512), b(256);
    std::vector<int32_t> c(128);
    for (int8_t& x : a) x = static_cast<int8_t>(trial == 0 ? -128 : random_.Int(-128, 127));
    for (int8_t& x : b) x = static_cast<int8_t>(trial == 0 ? -128 : random_.Int(-128, 127));
    for (int32_t& x : c) x = random_.Int(-1000000, 1000000);
    const auto d_a = Upload(a), d_b = Upload(b);
    const auto d = Upload(c);
    DUNLIN_LAUNCH(device_, (LaunchConfig{.threads = 32}), MultiplyS8, d_a.data(), d_b.data(), d.data());
    const auto got = Download(d);
    for (size_t i = 0; i < 128; ++i) {
      int32_t want = c[i];
      for (size_t k = 0; k < 32; ++k) want += a[i / 8 * 32 + k] * b[k * 8 + i % 8];
      EXPECT_EQ(got[i], want);
    }
  }
}

TEST_F(EmulatorMatrices, MovmatrixTransposes) {
  const auto in = Words16(64);
  const auto d_in = Upload(in);
  const auto out = Room<uint16_t>(64);
  DUNLIN_LAUNCH(device_, (LaunchConfig{.threads = 32}), Transpose, d_in.data(), out.data());
  const auto got = Download(out);
  for (size_t row = 0; row < 8; ++row) {
    for (size_t col = 0; col < 8; ++col) EXPECT_EQ(got[row * 8 + col], in[col * 8 + row]);
  }
}

TEST_F(EmulatorMatrices, LdMatrixTakesEachLanesRow) {
  const auto in = Words16(256);
  std::vector<int32_t> order(32);
  for (int32_t i = 0; i < 32; ++i) order[static_cast<size_t>(i)] = i * 11 % 32;  // a permutation
  const auto d_in = Upload(in);
  const auto d_order = Upload(order);
  const auto out = Room<uint16_t>(256), transposed = Room<uint16_t>(256);
  const LaunchConfig config{.threads = 32, .shared_bytes = 32 * 48};
  DUNLIN_LAUNCH(device_, config, (LoadFour<false>), d_in.data(), d_order.data(), out.data());
  DUNLIN_LAUNCH(device_, config, (LoadFour<true>), d_in.data(), d_order.data(), transposed.data());
  const auto got = Download(out), turned = Download(transposed);
  for (size_t m = 0; m < 4; ++m) {
    for (size_t row = 0; row < 8; ++row) {
      for (size_t col = 0; col < 8; ++col) {
        const uint16_t want = in[static_cast<size_t>(order[8 * m + row]) * 8 + col];
        EXPECT_EQ(got[m * 64 + row * 8 + col], want);
        EXPECT_EQ(turned[m * 64 + col * 8 + row], want);
      }
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
