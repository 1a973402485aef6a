#include "worker/scheduler/step_time_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace dunlin::worker {
namespace {

// A device that obeys the law, with noise.
struct Device {
  double a, b, c, noise;
  double Exact(int32_t tokens, int64_t context) const { return a + b * tokens + c * static_cast<double>(context); }
  absl::Duration Step(int32_t tokens, int64_t context, std::mt19937* random) const {
    std::uniform_real_distribution<double> error(1 - noise, 1 + noise);
    return absl::Seconds(Exact(tokens, context) * error(*random));
  }
};

// Steps as a server runs them: decode rows with growing contexts, now and then a prompt chunk.
struct Load {
  int32_t tokens;
  int64_t context;
};
Load SomeStep(std::mt19937* random) {
  const auto decodes = static_cast<int32_t>((*random)() % 64);
  Load l = {decodes, decodes * static_cast<int64_t>((*random)() % 2000)};
  if ((*random)() % 3 == 0 || decodes == 0) {
    const auto chunk = static_cast<int32_t>(1 + (*random)() % 256);
    l.tokens += chunk;
    l.context += chunk * static_cast<int64_t>((*random)() % 2000);
  }
  return l;
}

constexpr Device kDevices[] = {
    {2e-3, 1e-4, 2e-8, 0.05},  // a fast CPU or a small GPU
    {5e-2, 4e-3, 1e-6, 0.05},  // an edge box: 20 tokens per second
    {5e-3, 2e-6, 1e-9, 0.03},  // memory-bound: tokens are nearly free
};

TEST(StepTimeModel, RecoversTheCoefficientsOfANoisyDevice) {
  for (size_t d = 0; d < std::size(kDevices); ++d) {
    SCOPED_TRACE(d);
    const Device& device = kDevices[d];
    std::mt19937 random(7);
    StepTimeModel model;
    double total_error = 0;
    for (int i = 0; i < 2000; ++i) {
      const Load l = SomeStep(&random);
      if (i >= 50) {
        const double ratio =
            absl::ToDoubleSeconds(model.Predict(l.tokens, l.context)) / device.Exact(l.tokens, l.context);
        total_error += std::abs(ratio - 1);
        ASSERT_LT(std::abs(ratio - 1), 0.20) << "step " << i;
      }
      model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
    }
    EXPECT_LT(total_error / 1950, 0.02) << "within 10 % of the truth, 2 % on average";
    const auto [a, b, c] = model.coefficients();
    EXPECT_NEAR(a / device.a, 1, 0.1);
    if (d < 2) {
      EXPECT_NEAR(b / device.b, 1, 0.1);
    }
    if (d < 2) {
      EXPECT_NEAR(c / device.c, 1, 0.1);
    }
  }
}

TEST(StepTimeModel, StaysWithinTenPercentOnUnseenStepsOfTheSameDevice) {
  const Device device = kDevices[0];
  std::mt19937 random(8);
  StepTimeModel model;
  for (int i = 0; i < 300; ++i) {
    const Load l = SomeStep(&random);
    model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
  }
  int within = 0;
  for (int i = 0; i < 1000; ++i) {
    const Load l = SomeStep(&random);
    const double ratio = absl::ToDoubleSeconds(model.Predict(l.tokens, l.context)) / device.Exact(l.tokens, l.context);
    within += std::abs(ratio - 1) < 0.1 ? 1 : 0;
  }
  EXPECT_GE(within, 990);
}

TEST(StepTimeModel, FollowsAMachineThatChangesItsSpeed) {
  for (const double factor : {8.0, 2.0, 0.5, 0.125}) {
    SCOPED_TRACE(factor);
    std::mt19937 random(9);
    Device device = kDevices[0];
    StepTimeModel model;
    for (int i = 0; i < 500; ++i) {
      const Load l = SomeStep(&random);
      model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
    }
    device.a *= factor;
    device.b *= factor;
    device.c *= factor;
    for (int i = 0; i < 250; ++i) {
      const Load l = SomeStep(&random);
      model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
    }
    for (const Load l : {Load{8, 4000}, Load{64, 64000}, Load{256, 200000}}) {
      const double ratio =
          absl::ToDoubleSeconds(model.Predict(l.tokens, l.context)) / device.Exact(l.tokens, l.context);
      EXPECT_NEAR(ratio, 1, 0.1) << l.tokens << " tokens";
    }
  }
}

TEST(StepTimeModel, SteadyDecodingNeitherForgetsNorBlowsUp) {
  const Device device = kDevices[0];
  std::mt19937 random(10);
  StepTimeModel model;
  for (int i = 0; i < 500; ++i) {
    const Load l = SomeStep(&random);
    model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
  }
  for (int i = 0; i < 100000; ++i) {  // eight sequences, nothing else, for hours
    const int64_t context = 8 * (1000 + i % 1000);
    model.Observe(8, context, device.Step(8, context, &random));
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(model.Predict(8, 12000)) / device.Exact(8, 12000), 1, 0.05);
  const double prompt = absl::ToDoubleSeconds(model.Predict(264, 12000)) / device.Exact(264, 12000);
  EXPECT_GT(prompt, 0.05) << "a prompt chunk after it is not taken for free";
  EXPECT_LT(prompt, 20);
  // The first few chunks put it right.
  for (int i = 0; i < 20; ++i) model.Observe(264, 12000, device.Step(264, 12000, &random));
  EXPECT_NEAR(absl::ToDoubleSeconds(model.Predict(264, 12000)) / device.Exact(264, 12000), 1, 0.1);
}

TEST(StepTimeModel, OneOutlierMovesItABoundedWay) {
  const Device device = kDevices[0];
  for (const double outlier : {1e4, 1e-7}) {
    SCOPED_TRACE(outlier);
    std::mt19937 random(11);
    StepTimeModel model;
    for (int i = 0; i < 500; ++i) {
      const Load l = SomeStep(&random);
      model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
    }
    model.Observe(32, 32000, absl::Seconds(outlier));
    const double ratio = absl::ToDoubleSeconds(model.Predict(32, 32000)) / device.Exact(32, 32000);
    EXPECT_GT(ratio, 0.7);
    EXPECT_LT(ratio, 1.5);
  }
}

TEST(StepTimeModel, IgnoresWhatCannotBe) {
  StepTimeModel model;
  model.Observe(8, 100, absl::Seconds(-1));
  model.Observe(8, 100, absl::ZeroDuration());
  model.Observe(8, 100, absl::InfiniteDuration());
  model.Observe(8, 100, absl::Seconds(std::numeric_limits<double>::quiet_NaN()));
  model.Observe(0, 100, absl::Seconds(1));
  model.Observe(8, -1, absl::Seconds(1));
  EXPECT_EQ(model.num_observed(), 0u);
  EXPECT_EQ(model.Predict(8, 100), absl::ZeroDuration());
}

TEST(StepTimeModelProperty, NeverNegativeNeverNanWhateverIsObserved) {
  std::mt19937_64 random(12);
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    StepTimeModel model;
    const double scale = std::pow(10.0, static_cast<double>(random() % 12) - 9);
    for (int i = 0; i < 200; ++i) {
      const auto tokens = static_cast<int32_t>(random() % (random() % 2 == 0 ? 4 : 100000));
      const auto context = static_cast<int64_t>(random() % (random() % 2 == 0 ? 4 : uint64_t{1} << 40));
      // Not a line at all: anything between a nanosecond and ages.
      model.Observe(tokens, context, absl::Seconds(scale * std::pow(10.0, static_cast<double>(random() % 8))));
      for (const double k : model.coefficients()) ASSERT_GE(k, 0) << "step " << i;
      ASSERT_GE(model.Predict(tokens, context), absl::ZeroDuration());
      ASSERT_LT(model.Predict(1, 0), absl::InfiniteDuration());
    }
  }
}

TEST(StepTimeModel, MaxTokensIsTheLargestThatKeepsTheTarget) {
  const Device device = {2e-3, 1e-4, 2e-8, 0};
  std::mt19937 random(13);
  StepTimeModel model;
  EXPECT_EQ(model.MaxTokens(absl::Microseconds(1), 0), StepTimeModel::kUnlimited) << "it knows nothing yet";
  for (int i = 0; i < 500; ++i) {
    const Load l = SomeStep(&random);
    model.Observe(l.tokens, l.context, device.Step(l.tokens, l.context, &random));
  }
  ASSERT_TRUE(model.ready());
  EXPECT_NEAR(model.MaxTokens(absl::Milliseconds(12), 0), 100, 2);
  EXPECT_EQ(model.MaxTokens(absl::Milliseconds(1), 0), 0) << "below the fixed cost";
  EXPECT_EQ(model.MaxTokens(absl::InfiniteDuration(), 0), StepTimeModel::kUnlimited);
  EXPECT_LT(model.MaxTokens(absl::Milliseconds(12), 100000), model.MaxTokens(absl::Milliseconds(12), 0));
  for (int i = 0; i < 1000; ++i) {
    const absl::Duration target = absl::Microseconds(static_cast<int64_t>(random() % 100000));
    const auto context = static_cast<int64_t>(random() % 1000000);
    const auto each = static_cast<int64_t>(random() % 4000);
    const int32_t n = model.MaxTokens(target, context, each);
    ASSERT_GE(n, 0);
    const absl::Duration slack = absl::Nanoseconds(10);
    if (n > 0) {
      ASSERT_LE(model.Predict(n, context + each * n), target + slack);
    }
    ASSERT_GE(model.Predict(n + 1, context + each * (n + 1)) + slack, target);
  }
}

}  // namespace
}  // namespace dunlin::worker
