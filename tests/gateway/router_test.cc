#include "gateway/router.h"

#include <vector>

#include "gtest/gtest.h"

namespace dunlin::gateway {
namespace {

TEST(Router, ChoosesNobodyWhenNoneIsReady) {
  EXPECT_FALSE(PickWorker({}).has_value());
  const std::vector<WorkerView> workers(3);
  EXPECT_FALSE(PickWorker(workers).has_value());
}

TEST(Router, ChoosesTheReadyWorkerWithTheFewestStreams) {
  const std::vector<WorkerView> workers = {{.ready = true, .relayed = 4},
                                           {.ready = false, .relayed = 0},
                                           {.ready = true, .relayed = 1, .reported = 2},
                                           {.ready = true, .relayed = 3}};
  const auto decision = PickWorker(workers);
  ASSERT_TRUE(decision.has_value());
  EXPECT_EQ(decision->worker, 2u);
  EXPECT_EQ(decision->reason, "least_loaded");
}

TEST(Router, TheShareOfHeldPagesBreaksTies) {
  const std::vector<WorkerView> workers = {{.ready = true, .held_pages = 50, .total_pages = 100},
                                           {.ready = true, .held_pages = 60, .total_pages = 1000},
                                           {.ready = true}};
  EXPECT_EQ(PickWorker(workers)->worker, 1u);
}

TEST(Router, EqualSnapshotsRouteAlike) {
  const std::vector<WorkerView> workers(4, WorkerView{.ready = true, .total_pages = 10});
  for (int i = 0; i < 10; ++i) EXPECT_EQ(PickWorker(workers)->worker, 0u);
}

TEST(Router, TheOnlyReadyWorkerIsNamedSo) {
  const std::vector<WorkerView> workers = {{.ready = false}, {.ready = true, .relayed = 99}};
  EXPECT_EQ(PickWorker(workers)->reason, "only_ready");
}

}  // namespace
}  // namespace dunlin::gateway
