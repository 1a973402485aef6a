// The numbers of the sampler: logits as ordered keys, probabilities as integers, the draw's random bits. IEEE and
// integer operations only, in a fixed order, so that every device and the emulator compute the same bits.
//
// Key: 32 bits that order as the logits do; NaN counts as -infinity, -0 as +0.
// Mass: exp((x - max) / T) as an integer in units of 2^-44, so 2^44 for the most likely token. Sums are below 2^63 for
// a vocabulary below 2^19, and the same in any order. Error of a mass: (x - max) / T log2(e) is an f32 pair, so its
// fraction f in [-1/2, 1/2] is within 2^-26 (after rounding) of the true one: 2^-26.5 of the mass. 2^f - 1 is Taylor's
// polynomial of degree 7 (it leaves 2^-27.5), in f32: three roundings' worth of at most 0.42, 2^-23.9 of the mass; the
// 1 is added in integers. So |mass - 2^44 p| <= 2^-23 * 2^44 p + 1/2, and tokens below 2^-46 have none. All tokens that
// have none, and all roundings, make up at most vocab * 2^-45 <= 2^-26 of the most likely token's mass.
// Surprise: -log2 of the mass over the most likely one's, in units of 2^-25.
// Thread-safety, errors: pure functions.  Source: ours; Philox as kernels/sampling.h.
#ifndef DUNLIN_KERNELS_CUDA_SAMPLER_NUMBERS_H_
#define DUNLIN_KERNELS_CUDA_SAMPLER_NUMBERS_H_

#include <cstdint>

#include "kernels/cuda/dev.h"

namespace dunlin::kernels::cuda::sampler {

inline constexpr int kMaxVocab = 1 << 19;  // sums of masses stay below 2^63
inline constexpr uint64_t kOne = uint64_t{1} << 44;
inline constexpr uint32_t kKeyOfNone = 0x007FFFFFu;      // -infinity
inline constexpr uint32_t kKeyOfInfinity = 0xFF800000u;  // +infinity
inline constexpr float kLeastLog2 = -46.0f;              // below: no mass
inline constexpr float kSurpriseUnits = 0x1p25f;
inline constexpr uint32_t kMostSurprise = 46u << 25;

DUNLIN_DEV uint32_t KeyOf(float x) {
  if (!(x == x)) return kKeyOfNone;
  const uint32_t bits = dev::FloatBits(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
DUNLIN_DEV float ValueOf(uint32_t key) { return dev::BitsToFloat((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key); }

// What turns a row's keys into masses.
struct Scale {
  uint32_t max_key;
  float max;
  float high, low;  // log2(e) / temperature
};
DUNLIN_DEV Scale ScaleOf(uint32_t max_key, float temperature) {
  constexpr float kLog2EHigh = 1.44269502f, kLog2ELow = 1.92596303e-8f;
  const float high = kLog2EHigh / temperature;
  const float rest = dev::Fma(-high, temperature, kLog2EHigh);
  return {max_key, ValueOf(max_key), high, (rest + kLog2ELow) / temperature};
}

// log2 of the token's probability over the most likely one's; rounded, but monotone in the key.
DUNLIN_DEV float RoundedLog2(const Scale& scale, uint32_t key) {
  return key == scale.max_key ? 0.0f : (ValueOf(key) - scale.max) * scale.high;
}

// The same as whole + fraction; false: it has no mass.
DUNLIN_DEV bool SplitLog2(const Scale& scale, uint32_t key, int32_t* whole, float* fraction) {
  const float x = ValueOf(key);
  const float d = x - scale.max;
  const float y = d * scale.high;
  if (!(y > kLeastLog2)) return false;  // also where something is infinite
  // d and y with what their rounding lost (Knuth's two-sum, Dekker's product).
  const float back = d - x;
  const float d_low = (x - (d - back)) + (-scale.max - back);
  const float y_low = dev::Fma(d, scale.high, -y) + dev::Fma(d, scale.low, d_low * scale.high);
  *whole = dev::RoundToInt(y);
  *fraction = (y - static_cast<float>(*whole)) + y_low;
  return true;
}

DUNLIN_DEV uint64_t MassOf(const Scale& scale, uint32_t key) {
  if (key == scale.max_key) return kOne;
  int32_t whole;
  float f;
  if (!SplitLog2(scale, key, &whole, &f)) return 0;
  // ln(2)^k / k!
  float sum = 1.52527338e-5f;
  sum = dev::Fma(sum, f, 1.54035304e-4f);
  sum = dev::Fma(sum, f, 1.33335581e-3f);
  sum = dev::Fma(sum, f, 9.61812911e-3f);
  sum = dev::Fma(sum, f, 5.55041087e-2f);
  sum = dev::Fma(sum, f, 2.40226507e-1f);
  sum = dev::Fma(sum, f, 6.93147181e-1f);
  const auto units = static_cast<uint32_t>((1 << 30) + dev::RoundToInt(sum * f * 0x1p30f));
  const uint64_t doubled = (uint64_t{units} << 15) >> -whole;
  return (doubled + 1) >> 1;
}

DUNLIN_DEV uint32_t SurpriseOf(const Scale& scale, uint32_t key) {
  int32_t whole;
  float f;
  if (key == scale.max_key) return 0;
  if (!SplitLog2(scale, key, &whole, &f)) return kMostSurprise;
  const int32_t surprise = -(whole * (1 << 25) + dev::RoundToInt(f * kSurpriseUnits));
  return surprise > 0 ? static_cast<uint32_t>(surprise) : 0;
}

// floor(a b / 2^64)
DUNLIN_DEV uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  const uint64_t a0 = a & 0xFFFFFFFFu, a1 = a >> 32, b0 = b & 0xFFFFFFFFu, b1 = b >> 32;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32);
  const uint64_t other = a0 * b1 + (middle & 0xFFFFFFFFu);
  return a1 * b1 + (middle >> 32) + (other >> 32);
}
// ceil(fraction * mass), the fraction limited to [0, 1].
DUNLIN_DEV uint64_t PartOf(float fraction, uint64_t mass) {
  if (!(fraction > 0.0f)) return 0;
  if (fraction >= 1.0f) return mass;
  const auto units = static_cast<uint64_t>(fraction * 0x1p64f);
  return MultiplyHigh(units, mass) + (units * mass != 0 ? 1 : 0);
}

// ln(sum / kOne), sum >= kOne: halvings, then 2 atanh((m - 1) / (m + 1)), whose series leaves 2^-40.
DUNLIN_DEV double LogOf(uint64_t sum) {
  double m = static_cast<double>(sum) * 0x1p-44;
  int halvings = 0;
  for (; m > 1.4142135623730951; m *= 0.5) ++halvings;
  const double s = (m - 1.0) / (m + 1.0), square = s * s;
  double series = 0.0;
  for (int k = 13; k >= 1; k -= 2) series = dev::Fma(series, square, 1.0 / k);
  return dev::Fma(static_cast<double>(halvings), 0.69314718055994531, 2.0 * s * series);
}

// RandomBits of kernels/sampling.h.
DUNLIN_DEV uint64_t RandomBitsOf(uint64_t seed, uint64_t position) {
  auto c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32), c2 = 0u, c3 = 0u;
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return uint64_t{c1} << 32 | c0;
}
// The draw lands on the first token whose cumulated mass is above floor(u * mass): the same as u < cumulated / mass.
DUNLIN_DEV uint64_t DrawFrom(uint64_t mass, uint64_t seed, uint64_t position) {
  return MultiplyHigh(RandomBitsOf(seed, position) & ~uint64_t{0x7FF}, mass);  // the top 53 bits, times 2^11
}

}  // namespace dunlin::kernels::cuda::sampler

#endif  // DUNLIN_KERNELS_CUDA_SAMPLER_NUMBERS_H_
