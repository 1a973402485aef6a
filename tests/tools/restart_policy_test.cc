// The delays of restarts, on a clock that only the test moves.
#include "tools/restart_policy.h"

#include <vector>

#include "base/clock.h"
#include "gtest/gtest.h"

namespace dunlin::tools {
namespace {

// A child that lives `life` each time; the delays before its restarts.
std::vector<absl::Duration> Delays(int deaths, absl::Duration life) {
  FakeClock clock;
  RestartPolicy policy;
  std::vector<absl::Duration> delays;
  for (int i = 0; i < deaths; ++i) {
    policy.OnStart(clock.Now());
    clock.Advance(life);
    delays.push_back(policy.OnExit(clock.Now()));
    clock.Advance(delays.back());
  }
  return delays;
}

TEST(RestartPolicyTest, TheFirstDeathIsRepairedAtOnce) {
  EXPECT_EQ(Delays(1, absl::ZeroDuration())[0], absl::ZeroDuration());
}

TEST(RestartPolicyTest, AChildThatDiesAgainAndAgainWaitsTwiceAsLongEachTimeUpToTheCap) {
  const std::vector<absl::Duration> delays = Delays(12, absl::Milliseconds(50));
  EXPECT_EQ(delays[1], absl::Milliseconds(200));
  for (size_t i = 2; i < delays.size(); ++i) {
    EXPECT_EQ(delays[i], std::min(delays[i - 1] * 2, RestartPolicy::kLongestDelay)) << i;
  }
  EXPECT_EQ(delays.back(), absl::Seconds(10));
}

TEST(RestartPolicyTest, AChildThatLivedLongStartsAfresh) {
  FakeClock clock;
  RestartPolicy policy;
  for (int i = 0; i < 6; ++i) {
    policy.OnStart(clock.Now());
    policy.OnExit(clock.Now());
  }
  policy.OnStart(clock.Now());
  clock.Advance(RestartPolicy::kStableAfter - absl::Nanoseconds(1));
  EXPECT_GT(policy.OnExit(clock.Now()), absl::ZeroDuration());
  policy.OnStart(clock.Now());
  clock.Advance(RestartPolicy::kStableAfter);
  EXPECT_EQ(policy.OnExit(clock.Now()), absl::ZeroDuration());
  policy.OnStart(clock.Now());
  EXPECT_EQ(policy.OnExit(clock.Now()), RestartPolicy::kFirstDelay);
}

}  // namespace
}  // namespace dunlin::tools
