#include "worker/scheduler/output_predictor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace dunlin::worker {
namespace {

TEST(OutputPredictor, StartsPessimistic) {
  const OutputPredictor p;
  EXPECT_EQ(p.Predict(4096), 4096);
  EXPECT_EQ(p.Predict(1), 1);
  EXPECT_EQ(p.Predict(0), 0);
  EXPECT_EQ(p.Predict(2000000000), 2000000000);
}

TEST(OutputPredictor, LearnsFromFinishedRequestsOfTheSameClassOnly) {
  OutputPredictor p;
  for (int i = 0; i < 100; ++i) p.Observe(100, 4096);
  EXPECT_GE(p.Predict(4096), 100);
  EXPECT_LE(p.Predict(4096), 120) << "a fifth too long at most";
  EXPECT_EQ(p.Predict(5000), p.Predict(4096)) << "the same power of two";
  EXPECT_EQ(p.Predict(512), 512) << "nothing is known of these";
}

TEST(OutputPredictor, CoversTheQuantileAndNotMuchMore) {
  std::mt19937 random(21);
  std::lognormal_distribution<double> lengths(5, 0.8);
  OutputPredictor p;
  const auto draw = [&] { return std::clamp(static_cast<int32_t>(lengths(random)), 1, 2048); };
  for (int i = 0; i < 2000; ++i) p.Observe(draw(), 2048);
  const int32_t predicted = p.Predict(2048);
  int longer = 0;
  for (int i = 0; i < 10000; ++i) longer += draw() > predicted ? 1 : 0;
  EXPECT_LE(longer, 800) << "about one in twenty outgrows it";
  EXPECT_LT(predicted, 1100) << "far below max_tokens";
}

TEST(OutputPredictor, ASequenceThatIsStillGoingIsExpectedToGoOn) {
  OutputPredictor p;
  for (int i = 0; i < 100; ++i) p.Observe(i % 2 == 0 ? 50 : 1500, 2048);
  EXPECT_GE(p.Predict(2048, 0), 1500);
  for (int i = 0; i < 1000; ++i) p.Observe(50, 2048);
  EXPECT_LE(p.Predict(2048, 0), 64);
  EXPECT_GE(p.Predict(2048, 200), 1500) << "it is one of the long ones";
  EXPECT_EQ(p.Predict(2048, 2047), 2048);
  EXPECT_EQ(p.Predict(2048, 2048), 2048);
}

TEST(OutputPredictor, FollowsAChangeOfTheTraffic) {
  OutputPredictor p;
  for (int i = 0; i < 1000; ++i) p.Observe(50, 1024);
  EXPECT_LE(p.Predict(1024), 64);
  for (int i = 0; i < 100; ++i) p.Observe(700, 1024);
  EXPECT_GE(p.Predict(1024), 700);
}

TEST(OutputPredictor, PreemptionsRaiseTheQuantileAndQuietLowersIt) {
  OutputPredictor p;
  const double before = p.quantile();
  p.OnPreemption();
  EXPECT_NEAR(1 - p.quantile(), (1 - before) / 2, 1e-12);
  for (int i = 0; i < 2000; ++i) p.OnStep();
  EXPECT_NEAR(p.quantile(), before, 1e-3);
  for (int i = 0; i < 100; ++i) p.OnPreemption();
  for (int i = 0; i < 100; ++i) p.Observe(10, 256);
  EXPECT_EQ(p.Predict(256), 256) << "so often that nothing but the worst case will do";
  for (int i = 0; i < 100000; ++i) p.OnStep();
  EXPECT_GE(p.quantile(), 0.5);
  EXPECT_LE(p.Predict(256), 12);
}

// Every step one request outgrows its prediction with the probability that the quantile leaves, and one in ten such
// cases ends in a preemption.
TEST(OutputPredictor, SettlesBelowOnePreemptionInAThousandSteps) {
  std::mt19937 random(22);
  OutputPredictor p;
  int preemptions = 0;
  constexpr int kWarmup = 20000, kSteps = 400000;
  for (int step = 0; step < kWarmup + kSteps; ++step) {
    p.OnStep();
    std::bernoulli_distribution preempted((1 - p.quantile()) / 10);
    if (!preempted(random)) continue;
    p.OnPreemption();
    preemptions += step >= kWarmup ? 1 : 0;
  }
  EXPECT_LT(preemptions, kSteps / 1000);
  EXPECT_GT(preemptions, kSteps / 10000) << "or it reserves more than it must";
}

TEST(OutputPredictorProperty, StaysInRangeGrowsWithWhatIsGeneratedAndIsDeterministic) {
  std::mt19937 random(23);
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    OutputPredictor p, twin;
    for (int i = 0; i < 200; ++i) {
      const auto most = static_cast<int32_t>(1 + random() % (1u << (random() % 20)));
      const auto generated = static_cast<int32_t>(1 + random() % static_cast<uint32_t>(most));
      p.Observe(generated, most);
      twin.Observe(generated, most);
      if (random() % 8 == 0) p.OnPreemption(), twin.OnPreemption();
      p.OnStep(), twin.OnStep();
      const auto ask = static_cast<int32_t>(1 + random() % (1u << (random() % 20)));
      const auto far = static_cast<int32_t>(random() % (static_cast<uint32_t>(ask) + 1));
      const int32_t predicted = p.Predict(ask, far);
      ASSERT_EQ(predicted, twin.Predict(ask, far));
      ASSERT_GE(predicted, std::min(far + 1, ask));
      ASSERT_LE(predicted, ask);
    }
  }
}

}  // namespace
}  // namespace dunlin::worker
