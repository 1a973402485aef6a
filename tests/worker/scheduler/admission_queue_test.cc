#include "worker/scheduler/admission_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dunlin::worker {
namespace {

const absl::Time kStart = absl::UnixEpoch();

// A queue whose sequences have names; time passes by a second per arrival.
class Waiting {
 public:
  explicit Waiting(const AdmissionLimits& limits = {}) : queue(limits, &counters) {}

  struct Options {
    int32_t pages = 1;
    int32_t cached = 0;
    int32_t priority = 0;
    absl::Duration deadline = absl::InfiniteDuration();  // from arrival
    bool preempted = false;
  };
  void Add(const std::string& name, const std::string& tenant, const Options& o) {
    now += absl::Seconds(1);
    const WaitingEntry entry = {counters.Acquire(tenant), o.priority, now, now + o.deadline, o.preempted, 0};
    const WaitingId id = queue.Add(entry);
    ASSERT_EQ(names.count(id), 0u);
    names[id] = name;
    needs[id] = {o.pages, o.cached};
    tenants[id] = entry.tenant;
    ASSERT_EQ(queue.CheckInvariants(), "");
  }
  // One round; charges each one that joins with its pages.
  std::string Round(int32_t free_pages, int most = 1000) {
    std::string joined;
    looked = 0;
    queue.BeginRound();
    for (int i = 0; i < most; ++i) {
      const std::optional<WaitingId> id = queue.Next(free_pages, [&](WaitingId w) {
        ++looked;
        return needs.at(w);
      });
      if (!id.has_value()) break;
      free_pages -= needs.at(*id).pages;
      EXPECT_GE(free_pages, 0);
      joined += names.at(*id);
      counters.ChargeInput(tenants.at(*id), needs.at(*id).pages, 0);
      names.erase(*id);
    }
    queue.EndRound();
    EXPECT_EQ(queue.CheckInvariants(), "");
    EXPECT_EQ(counters.CheckInvariants(), "");
    return joined;
  }
  WaitingId Find(const std::string& name) const {
    for (const auto& [id, n] : names) {
      if (n == name) return id;
    }
    ADD_FAILURE() << name;
    return WaitingId{-1};
  }

  TenantCounters counters;
  AdmissionQueue queue;
  std::map<WaitingId, std::string> names;
  std::map<WaitingId, AdmissionNeed> needs;
  std::map<WaitingId, TenantId> tenants;
  absl::Time now = kStart;
  int looked = 0;
};

TEST(AdmissionQueue, FirstComeFirstServedWithinATenant) {
  Waiting w;
  for (const char* n : {"a", "b", "c"}) w.Add(n, "t", {.pages = 3});
  EXPECT_EQ(w.Round(7), "ab");
  EXPECT_EQ(w.Round(2), "");
  EXPECT_EQ(w.Round(3), "c");
  EXPECT_EQ(w.Round(100), "");
  EXPECT_EQ(w.queue.size(), 0);
}

TEST(AdmissionQueue, ATenantThatIsAloneIsNeverHeldBack) {
  Waiting w;
  for (int i = 0; i < 8; ++i) w.Add(absl::StrCat(i), "t", {.pages = 1000});
  w.counters.ChargeInput(w.counters.Acquire("t"), 1000000, 0);
  EXPECT_EQ(w.Round(8000), "01234567");
}

TEST(AdmissionQueue, HigherPriorityFirst) {
  Waiting w;
  w.Add("low", "t", {.priority = -1});
  w.Add("mid", "t", {.priority = 0});
  w.Add("high", "t", {.priority = 7});
  EXPECT_EQ(w.Round(2), "highmid");
}

TEST(AdmissionQueue, TheTenantWithTheLowestCounterFirst) {
  Waiting w;
  for (const char* n : {"a", "b", "c", "d"}) w.Add(n, "greedy", {.pages = 10});
  w.Add("x", "modest", {.pages = 5});
  w.Add("y", "modest", {.pages = 5});
  w.Add("z", "modest", {.pages = 5});
  EXPECT_EQ(w.Round(100), "axybzcd") << "after each, the one with less service";
}

TEST(AdmissionQueue, EqualTenantsTakeTurns) {
  Waiting w;
  for (const char* n : {"a", "b"}) w.Add(n, "s", {.pages = 1});
  for (const char* n : {"x", "y"}) w.Add(n, "t", {.pages = 1});
  EXPECT_EQ(w.Round(4), "axby");
}

TEST(AdmissionQueue, APreemptedSequenceComesFirstInItsPriorityAndIsNotPassed) {
  Waiting w;
  w.Add("a", "s", {.pages = 1});
  w.Add("p", "t", {.pages = 5, .preempted = true});
  w.Add("q", "t", {.pages = 1, .preempted = true});
  w.Add("high", "s", {.pages = 1, .priority = 1});
  w.Add("low", "s", {.pages = 1, .priority = -1});
  EXPECT_EQ(w.Round(4), "high") << "nothing of the same or a lower priority passes it";
  EXPECT_EQ(w.Round(6), "pq");
  EXPECT_EQ(w.Round(6), "alow");
}

TEST(AdmissionQueue, AnEarlierDeadlineGoesFirstButNotForEver) {
  AdmissionLimits limits;
  limits.patience = absl::Seconds(10);
  Waiting w(limits);
  w.Add("patient", "t", {});
  for (const char* n : {"1", "2", "3"}) w.Add(n, "t", {.deadline = absl::Seconds(2)});
  EXPECT_EQ(w.Round(1), "1");
  w.now = kStart + absl::Seconds(12);  // ten seconds after "patient" came
  w.Add("late", "t", {.deadline = absl::Milliseconds(1)});
  EXPECT_EQ(w.Round(10), "23patientlate");
}

TEST(AdmissionQueue, ASmallOneMayPassABigOneAFewTimes) {
  AdmissionLimits limits;
  limits.max_passed = 2;
  Waiting w(limits);
  w.Add("BIG", "t", {.pages = 10});
  for (const char* n : {"a", "b", "c"}) w.Add(n, "t", {.pages = 3});
  EXPECT_EQ(w.Round(5), "a");
  EXPECT_EQ(w.Round(2), "") << "nobody joined: it was not passed";
  EXPECT_EQ(w.queue.times_passed(w.Find("BIG")), 1);
  EXPECT_EQ(w.Round(5), "b");
  EXPECT_EQ(w.Round(5), "") << "now it is its turn";
  EXPECT_EQ(w.Round(12), "BIG");
  EXPECT_EQ(w.Round(12), "c");
}

TEST(AdmissionQueue, OneThatCouldNotJoinAfterAllKeepsItsClaim) {
  AdmissionLimits limits;
  limits.max_passed = 1;
  Waiting w(limits);
  w.Add("BIG", "t", {.pages = 10});
  for (const char* n : {"a", "b"}) w.Add(n, "t", {.pages = 3});
  EXPECT_EQ(w.Round(5), "a");
  const WaitingId big = w.Find("BIG");
  const WaitingEntry again = {w.tenants.at(big), 0, kStart, absl::InfiniteFuture(), false, w.queue.times_passed(big)};
  w.queue.Remove(big);
  ASSERT_EQ(w.queue.Add(again), big);
  EXPECT_EQ(w.Round(5), "") << "it has been passed as often as may be";
  EXPECT_EQ(w.Round(15), "BIGb");
}

TEST(AdmissionQueue, ABigOneOfOneTenantLetsTheOthersGoFirst) {
  Waiting w;
  for (int i = 0; i < 8; ++i) w.Add("BIG", "hog", {.pages = 100});
  w.counters.ChargeInput(w.counters.Acquire("other"), 50, 0);
  w.Add("small", "other", {.pages = 1});
  EXPECT_EQ(w.Round(5), "small") << "after the first that does not fit another tenant is looked at";
}

TEST(AdmissionQueue, LooksAtABoundedNumberOfSequences) {
  AdmissionLimits limits;
  limits.lookahead = 3;
  Waiting w(limits);
  for (int i = 0; i < 1000; ++i) w.Add("BIG", absl::StrCat("t", i % 2), {.pages = 9});
  w.Add("small", "t0", {.pages = 1});
  EXPECT_EQ(w.Round(5), "");
  EXPECT_EQ(w.looked, 3);
  EXPECT_EQ(w.Round(1000), "BIGBIGBIG");
  EXPECT_LE(w.looked, 6);
}

TEST(AdmissionQueue, TheLongestCachedPrefixGoesFirstAFewTimes) {
  AdmissionLimits limits;
  limits.max_prefix_passed = 2;
  Waiting w(limits);
  w.Add("cold", "t", {.pages = 4, .cached = 0});
  for (const char* n : {"1", "2", "3", "4"}) w.Add(n, "t", {.pages = 4, .cached = 64});
  EXPECT_EQ(w.Round(4), "1");
  EXPECT_EQ(w.Round(4), "2");
  EXPECT_EQ(w.Round(4), "cold") << "it has been passed often enough";
  EXPECT_EQ(w.Round(8), "34");
}

TEST(AdmissionQueue, TheCachedPrefixIsOnlyATieBreak) {
  Waiting w;
  w.counters.ChargeInput(w.counters.Acquire("served"), 10, 0);
  w.Add("cached", "served", {.cached = 64});
  w.Add("cold", "other", {});
  w.counters.ChargeInput(w.counters.Acquire("served"), 10, 0);
  EXPECT_EQ(w.Round(1), "cold") << "another tenant's turn";
  AdmissionLimits off;
  off.prefix_window = 1;
  Waiting v(off);
  v.Add("cold", "t", {});
  v.Add("cached", "t", {.cached = 64});
  EXPECT_EQ(v.Round(1), "cold");
}

TEST(AdmissionQueue, ARemovedSequenceIsGone) {
  Waiting w;
  for (const char* n : {"a", "b", "c"}) w.Add(n, "t", {.pages = 1});
  w.Add("p", "u", {.priority = 3, .preempted = true});
  for (const char* n : {"b", "p"}) {
    const WaitingId id = w.Find(n);
    w.queue.Remove(id);
    w.names.erase(id);
    EXPECT_EQ(w.queue.CheckInvariants(), "");
  }
  EXPECT_EQ(w.Round(9), "ac");
}

TEST(AdmissionQueue, EverybodyJoinsInTheEndHoweverManySmallOnesKeepComing) {
  for (const bool other_tenants : {false, true}) {
    SCOPED_TRACE(other_tenants);
    AdmissionLimits limits;
    limits.max_passed = 3;
    Waiting w(limits);
    // Small sequences hold 2 of 8 pages for three rounds each; a new one arrives at every round behind the big one.
    w.Add("BIG", "t", {.pages = 8});
    std::vector<int> ends = {3};
    bool joined = false;
    for (int round = 0; round < 100 && !joined; ++round) {
      std::erase_if(ends, [round](int end) { return end <= round; });
      w.Add("s", other_tenants ? absl::StrCat("t", round) : "t", {.pages = 2});
      const std::string who = w.Round(8 - 2 * static_cast<int32_t>(ends.size()));
      joined = who.find("BIG") != std::string::npos;
      ends.insert(ends.end(), static_cast<size_t>(std::count(who.begin(), who.end(), 's')), round + 3);
    }
    EXPECT_TRUE(joined);
  }
}

// A server with `places` places. Every tenant always has requests waiting; a request holds its place for as many steps
// as it has output tokens. Returns the service of each tenant over time.
struct Shape {
  int32_t input, output;
};
std::vector<std::vector<double>> Serve(const std::vector<Shape>& tenants, int places, int steps, uint32_t seed) {
  std::mt19937 random(seed);
  Waiting w;
  struct Running {
    size_t tenant;
    int32_t left;
  };
  std::vector<Running> running;
  std::vector<double> service(tenants.size(), 0);
  std::vector<std::vector<double>> history;
  const auto arrive = [&](size_t t) {
    const auto input = static_cast<int32_t>(1 + random() % static_cast<uint32_t>(tenants[t].input));
    w.Add(std::string(1, static_cast<char>('a' + t)), absl::StrCat(t), {.pages = input});
  };
  for (size_t t = 0; t < tenants.size(); ++t) {
    for (int i = 0; i < 2 * places; ++i) arrive(t);
  }
  for (int step = 0; step < steps; ++step) {
    const std::map<WaitingId, std::string> before = w.names;
    const std::string who = w.Round(1 << 30, places - static_cast<int>(running.size()));
    for (const auto& [id, name] : before) {
      if (w.names.count(id) == 0) service[static_cast<size_t>(name[0] - 'a')] += w.needs.at(id).pages;
    }
    for (const char c : who) {
      const auto t = static_cast<size_t>(c - 'a');
      running.push_back({t, static_cast<int32_t>(1 + random() % static_cast<uint32_t>(tenants[t].output))});
      arrive(t);
    }
    for (Running& r : running) {
      w.counters.ChargeOutput(w.counters.Acquire(absl::StrCat(r.tenant)), 1);
      service[r.tenant] += TenantCounters::kOutput;
      --r.left;
    }
    EXPECT_EQ(static_cast<int>(running.size()), places) << "work-conserving";
    std::erase_if(running, [](const Running& r) { return r.left == 0; });
    history.push_back(service);
  }
  return history;
}

// |W_f - W_g| over any interval is at most 2 * max(longest input, weight of the output that can be under way): VTC's
// theorem for tenants that are backlogged throughout.
void ExpectBoundedGaps(const std::vector<Shape>& tenants, int places, uint32_t seed) {
  SCOPED_TRACE(seed);
  const std::vector<std::vector<double>> history = Serve(tenants, places, 2000, seed);
  double bound = 0;
  for (const Shape& s : tenants) {
    bound = std::max({bound, static_cast<double>(s.input), TenantCounters::kOutput * places * s.output});
  }
  for (size_t f = 0; f < tenants.size(); ++f) {
    for (size_t g = 0; g < f; ++g) {
      double lowest = 0, highest = 0;  // of the difference so far; an interval's gap is a difference of two of them
      for (const std::vector<double>& service : history) {
        const double gap = service[f] - service[g];
        lowest = std::min(lowest, gap);
        highest = std::max(highest, gap);
      }
      EXPECT_LE(highest - lowest, 2 * bound) << f << " and " << g;
      EXPECT_GT(history.back()[f], 0.7 * history.back()[g]) << "equal shares in the long run";
      EXPECT_LT(history.back()[f], 1.4 * history.back()[g]);
    }
  }
}

TEST(AdmissionQueueFairness, TheServiceGapOfTwoBackloggedTenantsIsBounded) {
  for (uint32_t seed = 1; seed < 20; ++seed) ExpectBoundedGaps({{100, 20}, {100, 20}}, 8, seed);
}

TEST(AdmissionQueueFairness, AndOfThreeWithVeryDifferentRequests) {
  for (uint32_t seed = 1; seed < 20; ++seed) ExpectBoundedGaps({{4000, 4}, {10, 40}, {300, 20}}, 8, seed);
}

TEST(AdmissionQueueProperty, EqualInputsGiveEqualPlansAndNothingIsLost) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    AdmissionLimits limits;
    limits.lookahead = 1 + static_cast<int>(random() % 8);
    limits.max_passed = static_cast<int>(random() % 4);
    limits.prefix_window = 1 + static_cast<int>(random() % 4);
    limits.patience = absl::Seconds(random() % 100);
    Waiting w(limits), twin(limits);
    int added = 0, joined = 0, removed = 0;
    for (int op = 0; op < 300; ++op) {
      if (random() % 2 == 0) {
        Waiting::Options o;
        o.pages = 1 + static_cast<int32_t>(random() % 20);
        o.cached = static_cast<int32_t>(random() % 3) * 16;
        o.priority = static_cast<int32_t>(random() % 3);
        if (random() % 2 == 0) o.deadline = absl::Seconds(random() % 50);
        o.preempted = random() % 10 == 0;
        const std::string tenant = absl::StrCat(random() % 5);
        w.Add(".", tenant, o);
        twin.Add(".", tenant, o);
        ++added;
      } else if (random() % 4 == 0 && !w.names.empty()) {
        auto it = w.names.begin();
        std::advance(it, static_cast<int64_t>(random() % w.names.size()));
        const WaitingId id = it->first;
        w.queue.Remove(id);
        w.names.erase(id);
        twin.queue.Remove(id);
        twin.names.erase(id);
        ++removed;
      } else {
        const auto pages = static_cast<int32_t>(random() % 40);
        const std::string who = w.Round(pages);
        ASSERT_EQ(who, twin.Round(pages));
        ASSERT_EQ(w.names, twin.names);
        ASSERT_LE(w.looked, 2 * limits.lookahead);
        joined += static_cast<int>(who.size());
      }
    }
    for (int i = 0; i < 1000 && w.queue.size() > 0; ++i) {
      const std::string who = w.Round(20);
      ASSERT_FALSE(who.empty()) << "twenty pages are enough for everyone";
      joined += static_cast<int>(who.size());
    }
    ASSERT_EQ(joined + removed, added);
  }
}

}  // namespace
}  // namespace dunlin::worker
