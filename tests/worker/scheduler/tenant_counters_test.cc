#include "worker/scheduler/tenant_counters.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dunlin::worker {
namespace {

TEST(TenantCounters, ChargesByWeight) {
  TenantCounters c;
  const TenantId a = c.Acquire("a");
  c.ChargeInput(a, 100, 50);
  EXPECT_DOUBLE_EQ(c.counter(a), 105);
  c.ChargeOutput(a, 10);
  EXPECT_DOUBLE_EQ(c.counter(a), 125);
  EXPECT_EQ(c.Acquire("a"), a);
  EXPECT_NE(c.Acquire("b"), a);
  EXPECT_EQ(c.num_tenants(), 2);
}

TEST(TenantCounters, WhoComesBackIsLiftedToTheLowestThatWaits) {
  TenantCounters c;
  const TenantId a = c.Acquire("a"), b = c.Acquire("b"), late = c.Acquire("late"), rich = c.Acquire("rich");
  c.AddWaiting(a);
  c.AddWaiting(b);
  c.ChargeInput(a, 500, 0);
  c.ChargeInput(b, 300, 0);
  c.ChargeInput(rich, 900, 0);
  EXPECT_DOUBLE_EQ(c.spread(), 200);
  c.AddWaiting(late);
  EXPECT_DOUBLE_EQ(c.counter(late), 300) << "it cannot save up service while away";
  c.AddWaiting(rich);
  EXPECT_DOUBLE_EQ(c.counter(rich), 900) << "nor lose what it owes";
  EXPECT_DOUBLE_EQ(c.spread(), 600);
  c.AddWaiting(a);
  EXPECT_DOUBLE_EQ(c.counter(a), 500) << "it waits already";
}

TEST(TenantCounters, WithNobodyWaitingTheLiftIsTheOneThatWaitedLast) {
  TenantCounters c(0);
  const TenantId a = c.Acquire("a"), b = c.Acquire("b");
  c.AddWaiting(a);
  c.RemoveWaiting(a);
  c.ChargeInput(a, 700, 0);
  c.AddWaiting(b);
  EXPECT_DOUBLE_EQ(c.counter(b), 700);
  c.RemoveWaiting(b);
  c.ChargeInput(b, 1, 0);
  c.Release(b);  // forgotten at once
  const TenantId d = c.Acquire("d");
  c.AddWaiting(d);
  EXPECT_DOUBLE_EQ(c.counter(d), 701);
  EXPECT_EQ(c.CheckInvariants(), "");
}

TEST(TenantCounters, ForgetsTheLongestIdleBeyondTheLimit) {
  TenantCounters c(2);
  std::vector<TenantId> ids;
  for (const char* name : {"a", "b", "c", "d"}) ids.push_back(c.Acquire(name));
  EXPECT_EQ(c.num_tenants(), 4) << "those with open requests are all known";
  for (const TenantId t : ids) c.ChargeInput(t, 10, 0);
  c.Release(ids[1]);
  c.Release(ids[0]);
  c.Release(ids[2]);
  EXPECT_EQ(c.num_tenants(), 3);
  EXPECT_DOUBLE_EQ(c.counter(c.Acquire("a")), 10);
  EXPECT_DOUBLE_EQ(c.counter(c.Acquire("b")), 0) << "it was the longest idle";
  EXPECT_EQ(c.CheckInvariants(), "");
}

TEST(TenantCountersDeathTest, ATenantWithAWaitingRequestCannotBeReleased) {
  TenantCounters c;
  const TenantId a = c.Acquire("a");
  c.AddWaiting(a);
  EXPECT_DEATH(c.Release(a), "waiting");
}

// The classes against plain maps, on anything that may happen.
TEST(TenantCountersProperty, AgreesWithANaiveModel) {
  std::mt19937 random(31);
  for (int round = 0; round < 50; ++round) {
    SCOPED_TRACE(round);
    struct Naive {
      TenantId id;
      double counter = 0;
      int users = 0, waiting = 0;
    };
    TenantCounters c(1000);  // none is forgotten
    std::map<std::string, Naive> naive;
    double last = 0;
    std::string last_name;
    for (int op = 0; op < 2000; ++op) {
      const std::string name = absl::StrCat("t", random() % 12);
      Naive& n = naive[name];
      switch (random() % 6) {
        case 0:
          n.id = c.Acquire(name);
          ++n.users;
          break;
        case 1:
          if (n.users > n.waiting) {
            c.Release(n.id);
            --n.users;
          }
          break;
        case 2:
          if (n.users > n.waiting) {
            if (n.waiting == 0) {
              double lowest = 0;
              bool any = false;
              for (const auto& [other, m] : naive) {
                if (m.waiting == 0) continue;
                lowest = any ? std::min(lowest, m.counter) : m.counter;
                any = true;
              }
              if (!any) lowest = last_name.empty() ? last : naive[last_name].counter;
              n.counter = std::max(n.counter, lowest);
            }
            c.AddWaiting(n.id);
            ++n.waiting;
          }
          break;
        case 3:
          if (n.waiting > 0) {
            c.RemoveWaiting(n.id);
            if (--n.waiting == 0) last_name = name;
          }
          break;
        default:
          if (n.users > 0) {
            const auto tokens = static_cast<int32_t>(random() % 100);
            c.ChargeInput(n.id, tokens, 0);
            c.ChargeOutput(n.id, 1);
            n.counter += tokens + 2;
          }
      }
      if (n.users > 0) {
        ASSERT_DOUBLE_EQ(c.counter(n.id), n.counter) << "op " << op;
      }
      std::vector<double> waiting;
      for (const auto& [other, m] : naive) {
        if (m.waiting > 0) waiting.push_back(m.counter);
      }
      const auto [lo, hi] = std::minmax_element(waiting.begin(), waiting.end());
      ASSERT_DOUBLE_EQ(c.spread(), waiting.size() < 2 ? 0 : *hi - *lo) << "op " << op;
      ASSERT_EQ(c.CheckInvariants(), "") << "op " << op;
    }
  }
}

TEST(TenantCountersProperty, RemembersABoundedNumberHoweverManyCome) {
  std::mt19937 random(32);
  TenantCounters c(8);
  std::deque<TenantId> open;
  for (int i = 0; i < 20000; ++i) {
    const TenantId t = c.Acquire(absl::StrCat("t", random() % 500));
    c.AddWaiting(t);
    c.RemoveWaiting(t);
    c.ChargeInput(t, static_cast<int32_t>(random() % 50), 0);
    open.push_back(t);
    if (open.size() > 4) {
      c.Release(open.front());
      open.pop_front();
    }
    ASSERT_LE(c.num_tenants(), 8 + 5);
    if (i % 64 == 0) {
      ASSERT_EQ(c.CheckInvariants(), "");
    }
  }
}

}  // namespace
}  // namespace dunlin::worker
