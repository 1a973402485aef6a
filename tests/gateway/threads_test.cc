// The thread-carrying classes of both processes that need no gRPC: run under the thread sanitizer too.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gateway/active_calls.h"
#include "gateway/work_pool.h"
#include "gtest/gtest.h"
#include "worker/service/active_calls.h"
#include "worker/service/task_thread.h"

namespace dunlin {
namespace {

constexpr int kThreads = 4;
constexpr int kEach = 500;

template <typename Body>
void OnThreads(Body body) {
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) threads.emplace_back([t, &body] { body(t); });
  for (std::thread& t : threads) t.join();
}

TEST(WorkPool, RunsEverythingItAcceptedOnceEvenWhatIsQueuedAtTheEnd) {
  std::vector<int> runs(kThreads * kEach, 0);
  std::atomic<int> accepted{0};
  {
    gateway::WorkPool pool(2, 64);
    OnThreads([&](int t) {
      for (int i = 0; i < kEach; ++i) {
        int* const slot = &runs[static_cast<size_t>(t * kEach + i)];
        if (pool.TrySubmit([slot] { ++*slot; })) ++accepted;
      }
    });
  }
  int total = 0;
  for (const int r : runs) {
    EXPECT_LE(r, 1);
    total += r;
  }
  EXPECT_EQ(total, accepted.load());
  EXPECT_GT(total, 0);
}

TEST(WorkPool, RefusesWhenItsQueueIsFull) {
  std::atomic<bool> release{false};
  gateway::WorkPool pool(1, 2);
  int accepted = 0;
  for (int i = 0; i < 8; ++i) {
    accepted += pool.TrySubmit([&release] {
      while (!release.load()) std::this_thread::yield();
    });
  }
  EXPECT_GE(accepted, 2);
  EXPECT_LE(accepted, 3) << "one runs, two wait";
  release.store(true);
}

TEST(TaskThread, RunsWhatWasPostedBeforeTheEndInOrder) {
  std::vector<int> order;  // touched by the one thread only, read after it ended
  int accepted = 0;
  {
    worker::TaskThread thread(1024);
    for (int i = 0; i < kEach; ++i) accepted += thread.Post([&order, i] { order.push_back(i); });
  }
  ASSERT_EQ(static_cast<int>(order.size()), accepted);
  for (size_t i = 1; i < order.size(); ++i) EXPECT_LT(order[i - 1], order[i]);
}

TEST(ActiveCalls, OfTheGatewayFindDuplicatesAndTheMomentTheLastLeaves) {
  gateway::ActiveCalls<int> calls;
  const auto call = std::make_shared<int>(7);
  ASSERT_TRUE(calls.Insert("same", call));
  EXPECT_FALSE(calls.Insert("same", call));
  std::thread waiter([&calls] { EXPECT_TRUE(calls.WaitUntilDone(absl::Seconds(60))); });
  OnThreads([&](int t) {
    for (int i = 0; i < kEach; ++i) {
      const std::string id = std::to_string(t) + "-" + std::to_string(i);
      EXPECT_TRUE(calls.Insert(id, call));
      EXPECT_EQ(calls.Find(id), call);
      EXPECT_GE(calls.All().size(), 1u);
      calls.Erase(id);
      EXPECT_EQ(calls.Find(id), nullptr);
      calls.Done();
    }
  });
  calls.Erase("same");
  ASSERT_TRUE(calls.Insert("same", call)) << "its id is free";
  calls.Erase("same");
  EXPECT_FALSE(calls.WaitUntilDone(absl::ZeroDuration())) << "two have not been sent their ends";
  calls.Done();
  calls.Done();
  waiter.join();
  EXPECT_EQ(calls.Find("same"), nullptr);
}

TEST(ActiveCalls, OfTheWorkerWaitForTheLast) {
  worker::ActiveCalls calls;
  calls.Enter();
  EXPECT_FALSE(calls.WaitIdle(absl::ZeroDuration()));
  std::thread waiter([&calls] { EXPECT_TRUE(calls.WaitIdle(absl::Seconds(60))); });
  OnThreads([&](int) {
    for (int i = 0; i < kEach; ++i) {
      calls.Enter();
      calls.Leave();
    }
  });
  calls.Leave();
  waiter.join();
  EXPECT_EQ(calls.count(), 0);
}

}  // namespace
}  // namespace dunlin
