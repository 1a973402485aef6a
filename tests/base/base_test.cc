#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/bounded_queue.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"

namespace dunlin {
namespace {

using ::dunlin::testing::IsOk;
using ::dunlin::testing::StatusIs;
using ::testing::HasSubstr;

TEST(CheckDeathTest, AFailedCheckPrintsBothValuesAndTheMessage) {
  EXPECT_DEATH(CHECK_EQ(2 + 2, 5) << "arithmetic", "2 \\+ 2 == 5 \\(4 vs. 5\\) arithmetic");
  EXPECT_DEATH(CHECK(false) << "why", "check failed: false why");
}

TEST(Check, OperandsAreEvaluatedOnceAndTheMessageOnlyOnFailure) {
  int evaluated = 0, streamed = 0;
  CHECK_LT(++evaluated, 2) << ++streamed;
  if (evaluated == 0)
    CHECK(true);  // must not swallow the else of its surroundings
  else
    ++evaluated;
  EXPECT_EQ(evaluated, 2);
  EXPECT_EQ(streamed, 0);
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}
absl::StatusOr<int> Quarter(int x) {
  ASSIGN_OR_RETURN(const int half, Half(x));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusMacros, TheFirstErrorReturns) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_THAT(Quarter(6), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("odd")));
}

TEST(FakeClock, MovesOnlyWhenTold) {
  FakeClock clock;
  const absl::Time start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(clock.Now() - start, absl::Seconds(3));
}

TEST(RealClock, NeverGoesBack) {
  absl::Time last = Clock::Real()->Now();
  for (int i = 0; i < 1000; ++i) {
    const absl::Time now = Clock::Real()->Now();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(BoundedQueue, RefusesWhenFullOrClosedAndKeepsTheItem) {
  BoundedQueue<std::unique_ptr<int>> queue(2);
  EXPECT_TRUE(queue.TryPush(std::make_unique<int>(1)));
  EXPECT_TRUE(queue.TryPush(std::make_unique<int>(2)));
  auto third = std::make_unique<int>(3);
  EXPECT_FALSE(queue.TryPush(std::move(third)));
  ASSERT_NE(third, nullptr);
  std::vector<std::unique_ptr<int>> out;
  queue.DrainInto(&out);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(*out[0], 1);
  EXPECT_EQ(*out[1], 2);
  queue.Close();
  EXPECT_FALSE(queue.TryPush(std::move(third)));
  EXPECT_NE(third, nullptr);
}

TEST(BoundedQueue, EveryItemOfManyProducersArrivesOnce) {
  constexpr int kProducers = 4, kEach = 2000;
  BoundedQueue<int> queue(64);
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&queue, p] {
      for (int i = 0; i < kEach; ++i) {
        int item = p * kEach + i;
        while (!queue.TryPush(std::move(item))) std::this_thread::yield();
      }
    });
  }
  std::vector<int> seen(kProducers * kEach, 0), batch;
  for (int total = 0; total < kProducers * kEach;) {
    queue.WaitFor(std::chrono::seconds(10));
    queue.DrainInto(&batch);
    for (const int item : batch) ++seen[static_cast<size_t>(item)];
    total += static_cast<int>(batch.size());
  }
  for (std::thread& t : producers) t.join();
  for (const int count : seen) ASSERT_EQ(count, 1);
}

TEST(BoundedQueue, WakeEndsAWaitWithoutAnItem) {
  BoundedQueue<int> queue(1);
  queue.Wake();
  queue.WaitFor(std::chrono::hours(1));  // returns at once, or the test's time limit fails it
  std::thread waker([&queue] { queue.Wake(); });
  queue.WaitFor(std::chrono::hours(1));
  waker.join();
}

TEST(WriteFileAtomically, ReplacesTheWholeFileOrLeavesIt) {
  const std::string path = ::testing::TempDir() + "base_test_" + std::to_string(::getpid());
  ASSERT_OK(WriteFileAtomically(path, "first\n"));
  ASSERT_OK(WriteFileAtomically(path, "second\n"));
  EXPECT_EQ(testing::ReadFile(path), "second\n");
  std::remove(path.c_str());
  EXPECT_THAT(WriteFileAtomically("/nowhere/file", "x"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("/nowhere/file")));
}

TEST(CondVar, AWaiterSeesWhatWasWrittenUnderTheMutex) {
  Mutex mu;
  CondVar cv;
  bool ready = false;
  std::thread writer([&] {
    MutexLock lock(&mu);
    ready = true;
    cv.Signal();
  });
  {
    MutexLock lock(&mu);
    while (!ready) cv.Wait(&mu);
  }
  writer.join();
  EXPECT_TRUE(ready);
}

}  // namespace
}  // namespace dunlin
