// The sampler's arithmetic against double and wide integers, and its kernel under many orders of the threads.
#include "kernels/cuda/sampler_numbers.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/emulator/emulator.h"
#include "kernels/cuda/sampler.h"
#include "tests/kernels/cuda/device_fixture.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda {
namespace {

using kernels::testing::Random;
using testing::DeviceTest;

TEST(SamplerNumbers, KeysOrderAsTheLogitsDo) {
  Random random(1);
  const auto any = [&] { return std::ldexp(random.Normal(), random.Int(-149, 120)); };
  for (int i = 0; i < 100000; ++i) {
    const float a = any(), b = i % 3 == 0 ? a : any();
    ASSERT_EQ(sampler::KeyOf(a) < sampler::KeyOf(b), a < b) << a << " " << b;
    ASSERT_EQ(sampler::ValueOf(sampler::KeyOf(a)), a);
  }
  EXPECT_EQ(sampler::KeyOf(-0.0f), sampler::KeyOf(0.0f));
  EXPECT_EQ(sampler::KeyOf(-INFINITY), sampler::kKeyOfNone);
  EXPECT_EQ(sampler::KeyOf(NAN), sampler::kKeyOfNone);
  EXPECT_EQ(sampler::KeyOf(INFINITY), sampler::kKeyOfInfinity);
  EXPECT_LT(sampler::kKeyOfNone, sampler::KeyOf(-3.4e38f));
}

// The bounds that sampler_numbers.h derives. Prints how much of them is used.
TEST(SamplerNumbers, MassesAndSurprisesAreWithinTheirBounds) {
  Random random(2);
  double worst_mass = 0, worst_surprise = 0;
  for (int i = 0; i < 400000; ++i) {
    const float temperature = static_cast<float>(std::exp(3 * random.Normal()));
    const float max = 20.0f * random.Normal();
    const float x = static_cast<float>(max - temperature * 33.0 * random.Uniform() * random.Uniform());
    const sampler::Scale scale = sampler::ScaleOf(sampler::KeyOf(max), temperature);
    const double exponent = (double{x} - double{max}) / double{temperature};
    const double want = std::exp(exponent) * 0x1p44;
    const auto got = static_cast<double>(sampler::MassOf(scale, sampler::KeyOf(x)));
    const double mass_error = std::fabs(got - want) / (want * 0x1p-23 + 0.5);
    ASSERT_TRUE(mass_error <= 1.0) << x << " of " << max << " at " << temperature << ": " << got << " for " << want;
    worst_mass = std::max(worst_mass, mass_error);
    if (exponent < -31) continue;  // the most surprise is stood for by one number
    // The fraction's error and its rounding to units: 2^-26 each.
    const double bits = -exponent * 1.4426950408889634;
    const double surprise_error =
        std::fabs(sampler::SurpriseOf(scale, sampler::KeyOf(x)) * 0x1p-25 - bits) / (2 * 0x1p-26 + 1e-12);
    ASSERT_TRUE(surprise_error <= 1.0) << x << " of " << max << " at " << temperature;
    worst_surprise = std::max(worst_surprise, surprise_error);
  }
  std::printf("errors of at most %.2f (masses) and %.2f (surprises) of their bounds\n", worst_mass, worst_surprise);
}

TEST(SamplerNumbers, WideProductsLogarithmsAndBitsAreExact) {
  __extension__ using Wide = unsigned __int128;
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t a = random.engine()() >> random.Int(0, 63), b = random.engine()() >> random.Int(0, 63);
    ASSERT_EQ(sampler::MultiplyHigh(a, b), static_cast<uint64_t>(Wide{a} * b >> 64));
    ASSERT_EQ(sampler::RandomBitsOf(a, b), RandomBits(a, b));
    // u < c / mass where c passes the draw's number, and not where it does not.
    const uint64_t mass = (b >> 1) + 1;
    const uint64_t drawn = sampler::DrawFrom(mass, a, 7);
    const uint64_t u = RandomBits(a, 7) >> 11;
    ASSERT_LE(Wide{drawn} << 53, Wide{u} * mass);
    ASSERT_GT(Wide{drawn + 1} << 53, Wide{u} * mass);
    const auto fraction = static_cast<float>(random.Uniform());
    const auto units = static_cast<uint64_t>(std::ldexp(fraction, 64));
    const Wide part = (Wide{units} * mass + ~uint64_t{0}) >> 64;
    if (fraction < 1.0f) {
      ASSERT_EQ(sampler::PartOf(fraction, mass), static_cast<uint64_t>(part));
    }
    const uint64_t sum = sampler::kOne + (random.engine()() >> random.Int(2, 40));
    ASSERT_NEAR(sampler::LogOf(sum), std::log(static_cast<double>(sum) * 0x1p-44), 1e-11);
  }
  EXPECT_EQ(sampler::PartOf(1.0f, 5), 5u);
  EXPECT_EQ(sampler::PartOf(0.0f, 5), 0u);
}

class SamplerOrder : public DeviceTest {};

TEST_F(SamplerOrder, NoOrderOfTheThreadsChangesABit) {
  constexpr int kVocab = 3000, kRows = 4;
  Random random(4);
  std::vector<float> logits = random.Normals(kVocab * kRows, 2.0f);
  for (size_t i = 0; i < kVocab; ++i) logits[i] = std::round(logits[i]);  // ties of more than a list
  std::vector<SampleParams> params(kRows);
  for (size_t i = 0; i < kRows; ++i) {
    params[i].seed = i;
    params[i].num_top = kMaxTop;
    params[i].top_p = 0.9f;
    params[i].typical_p = i % 2 == 0 ? 1.0f : 0.8f;
    params[i].min_p = i > 1 ? 0.01f : 0.0f;
    params[i].top_k = 1500;
  }
  std::vector<DeviceSampleParams> rows(kRows);
  FlattenSampleParams(params, rows.data(), nullptr, nullptr, nullptr);
  const auto d_logits = Upload(logits);
  const auto d_rows = Upload(rows);
  const auto scratch = Room<float>(logits.size());
  const auto results = Room<DeviceSampleResult>(kRows);
  std::vector<DeviceSampleResult> first;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    emulator::SetSeed(seed);
    device_->Fill(results.data(), 0, results.bytes());
    SampleRows(device_, d_logits.data(), kVocab, kRows, nullptr, d_rows.data(), {}, scratch.data(), results.data());
    const auto got = Download(results);
    if (first.empty()) first = got;
    EXPECT_EQ(std::memcmp(first.data(), got.data(), sizeof first[0] * kRows), 0) << "seed " << seed;
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
