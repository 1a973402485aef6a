// The scheduler as a whole, on a toy device and a virtual clock.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/scheduler/simulated_engine.h"

namespace dunlin::worker {
namespace {

const absl::Time kStart = absl::UnixEpoch();

SimRequest Request(absl::Duration arrival, int32_t prompt, int32_t output, const std::string& tenant = "t") {
  return {kStart + arrival, prompt, output, output, tenant, 0};
}

TEST(Simulation, AShortPromptAmongFourLongOnesIsHardlyLaterThanAlone) {
  const SimOptions options;
  const absl::Duration full_step = absl::Seconds(options.a + options.b * options.rows.max_rows);
  SimulatedEngine alone(options, {Request(absl::ZeroDuration(), 100, 1)});
  alone.Run();
  const absl::Duration idle = alone.results()[0].first_token - kStart;
  for (const int decoding : {0, 48}) {
    // Arriving at any moment of the prefill of the four.
    for (int ms = 200; ms < 800; ms += 7) {
      SCOPED_TRACE(absl::StrCat(decoding, " decoding, ", ms, " ms"));
      std::vector<SimRequest> requests;
      for (int i = 0; i < decoding; ++i) requests.push_back(Request(absl::ZeroDuration(), 1, 1000));
      for (int i = 0; i < 4; ++i) requests.push_back(Request(absl::Milliseconds(100), 4000, 4));
      requests.push_back(Request(absl::Milliseconds(ms), 100, 1));
      SimulatedEngine loaded(options, requests);
      loaded.Run(200);
      const absl::Duration ttft = loaded.results().back().first_token - requests.back().arrival;
      EXPECT_LE(ttft, idle + 3 * full_step);
    }
  }
}

TEST(Simulation, EveryAdmittedPromptAdvancesWithinEightSteps) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::vector<SimRequest> requests;
    for (int i = 0; i < 100; ++i) {
      requests.push_back(Request(absl::Milliseconds(random() % 5000),
                                 1 + static_cast<int32_t>(random() % (i % 3 == 0 ? 4000 : 100)),
                                 1 + static_cast<int32_t>(random() % 60)));
    }
    SimOptions options;
    options.target = absl::Milliseconds(seed % 2 == 0 ? 10 : 3);
    SimulatedEngine engine(options, requests);
    engine.Run();
    EXPECT_TRUE(engine.all_ended());
    for (const SimResult& r : engine.results()) EXPECT_LE(r.longest_wait, 8u);
  }
}

TEST(Simulation, ALongPromptDoesNotSlowDecodingBeyondTheTarget) {
  std::vector<SimRequest> requests;
  for (int i = 0; i < 8; ++i) requests.push_back(Request(absl::ZeroDuration(), 50, 400));
  // Something to learn from, then the long ones.
  for (int i = 0; i < 20; ++i) requests.push_back(Request(absl::Milliseconds(20 * i), 30 + 10 * i, 1));
  const size_t learnt = requests.size();
  for (int i = 0; i < 2; ++i) requests.push_back(Request(absl::Seconds(1), 8000, 40));
  for (int i = 0; i < 4; ++i) requests.push_back(Request(absl::Milliseconds(1100), 10, 60));
  SimOptions options;
  SimulatedEngine without(options, requests);
  without.Run();
  options.target = absl::Milliseconds(10);
  SimulatedEngine with(options, requests);
  with.Run();
  ASSERT_TRUE(with.all_ended());
  for (size_t i = learnt + 2; i < requests.size(); ++i) {
    EXPECT_GT(without.results()[i].longest_gap, absl::Milliseconds(20)) << "or the test shows nothing";
    EXPECT_LE(with.results()[i].longest_gap, absl::Milliseconds(11)) << "the target and a tenth";
  }
}

// A pool much smaller than the need, lengths that the predictor can only guess.
std::vector<SimRequest> Crowd(uint32_t seed, int count) {
  std::mt19937 random(seed);
  std::lognormal_distribution<double> lengths(3.5, 1.0);
  std::vector<SimRequest> requests;
  for (int i = 0; i < count; ++i) {
    SimRequest r = Request(absl::Milliseconds(random() % 20000), 1 + static_cast<int32_t>(random() % 300), 1,
                           absl::StrCat("t", random() % 4));
    r.max_output = 700;
    r.output = std::clamp(static_cast<int32_t>(lengths(random)), 1, 700);
    r.priority = static_cast<int32_t>(random() % 3);
    requests.push_back(r);
  }
  return requests;
}

TEST(Simulation, EverybodyFinishesInATinyPoolAndIsPreemptedTwiceAtMost) {
  uint64_t preemptions = 0, steps = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    SimOptions options;
    options.num_pages = 63 + static_cast<int32_t>(seed);  // 63: the largest request alone
    SimulatedEngine engine(options, Crowd(seed, 200));
    engine.Run();
    ASSERT_TRUE(engine.all_ended()) << "after " << engine.steps() << " steps";
    for (const SimResult& r : engine.results()) ASSERT_LE(r.preemptions, kMaxPreemptions);
    preemptions += engine.preemptions();
    steps += engine.steps();
  }
  EXPECT_GT(preemptions, 20u) << "or the test shows nothing";
  EXPECT_LT(preemptions, steps / 100);
}

TEST(Simulation, PromisesThatAreAlwaysTooSmallCostTimeAndNothingElse) {
  uint64_t preempted_twice = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    SimOptions options;
    options.num_pages = 63 + static_cast<int32_t>(seed);
    options.promise_nothing = true;
    SimulatedEngine engine(options, Crowd(seed, 200));
    engine.Run();
    ASSERT_TRUE(engine.all_ended()) << "after " << engine.steps() << " steps";
    for (const SimResult& r : engine.results()) {
      ASSERT_LE(r.preemptions, kMaxPreemptions);
      preempted_twice += r.preemptions == kMaxPreemptions ? 1 : 0;
    }
  }
  EXPECT_GT(preempted_twice, 10u) << "or the test shows nothing";
}

TEST(Simulation, PreemptionsBecomeRareAndMoreRunAtOnceThanByTheWorstCase) {
  SimOptions options;
  options.num_pages = 400;
  SimulatedEngine engine(options, Crowd(99, 6000));
  engine.Run();
  ASSERT_TRUE(engine.all_ended());
  EXPECT_LT(engine.preemptions(), engine.steps() / 1000) << "below 0.1 % of the steps";
  EXPECT_GT(engine.peak_running(), uint64_t{400 / 50}) << "a worst case is fifty pages";
}

TEST(Simulation, EqualSubmissionsAtEqualTimesGiveEqualPlans) {
  for (uint32_t seed = 0; seed < 5; ++seed) {
    SCOPED_TRACE(seed);
    SimOptions options;
    options.num_pages = 80;
    options.target = absl::Milliseconds(8);
    SimulatedEngine a(options, Crowd(seed, 200)), b(options, Crowd(seed, 200));
    a.Run();
    b.Run();
    ASSERT_TRUE(a.all_ended());
    EXPECT_EQ(a.trace(), b.trace());
  }
}

}  // namespace
}  // namespace dunlin::worker
