#include "worker/scheduler/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace dunlin::worker {
namespace {

SchedulerLimits Limits(int max_running, int max_rows) {
  SchedulerLimits l;
  l.max_running = max_running;
  l.max_rows = max_rows;
  return l;
}

RunningSequence Decoding() { return {1, true, false}; }
RunningSequence Prefilling(int32_t remaining) { return {remaining, false, false}; }
RunningSequence Paused(RunningSequence s) {
  s.paused = true;
  return s;
}

std::vector<int32_t> Rows(const Scheduler& s, const std::vector<RunningSequence>& running, uint64_t step = 0) {
  std::vector<int32_t> rows;
  s.PlanRows(running, step, &rows);
  return rows;
}
std::vector<int32_t> Admitted(const Scheduler& s, const std::vector<WaitingSequence>& waiting, int running,
                              int32_t free) {
  std::vector<int32_t> admitted;
  s.PlanAdmission(waiting, running, free, &admitted);
  return admitted;
}
using V = std::vector<int32_t>;

TEST(PlanRows, EveryDecodingSequenceGetsItsTokenBeforeAnyPrompt) {
  const Scheduler s(Limits(4, 10));
  EXPECT_EQ(Rows(s, {Prefilling(100), Decoding(), Decoding(), Decoding()}), (V{7, 1, 1, 1}));
}

TEST(PlanRows, APausedSequenceGetsNothingAndItsShareGoesToTheOthers) {
  const Scheduler s(Limits(4, 10));
  EXPECT_EQ(Rows(s, {Prefilling(100), Paused(Decoding()), Paused(Prefilling(3)), Decoding()}), (V{9, 0, 0, 1}));
}

TEST(PlanRows, AShortPromptFinishesWhileLongOnesAdvance) {
  const Scheduler s(Limits(8, 256));
  const V rows = Rows(s, {Prefilling(4000), Prefilling(4000), Prefilling(4000), Prefilling(4000), Prefilling(100)});
  EXPECT_EQ(rows[4], 100);
  for (int i = 0; i < 4; ++i) EXPECT_GE(rows[static_cast<size_t>(i)], 256 / 2 / 5);
  EXPECT_EQ(std::accumulate(rows.begin(), rows.end(), 0), 256);
}

TEST(PlanRows, MorePromptsThanTokensTakeTurns) {
  const Scheduler s(Limits(4, 4));
  std::vector<RunningSequence> running(4, Prefilling(1000));
  std::vector<int32_t> got(4, 0);
  for (uint64_t step = 0; step < 40; ++step) {
    const V rows = Rows(s, running, step);
    for (size_t i = 0; i < 4; ++i) {
      got[i] += rows[i];
      running[i].remaining_tokens -= rows[i];
    }
  }
  EXPECT_EQ(std::accumulate(got.begin(), got.end(), 0), 160);
  EXPECT_GE(*std::min_element(got.begin(), got.end()), 18) << "half of the budget in equal shares";
}

TEST(PlanRowsProperty, SpendsTheBudgetExactlyAndStarvesNobody) {
  std::mt19937 random(11);
  for (int round = 0; round < 20000; ++round) {
    const int max_running = 1 + static_cast<int>(random() % 8);
    const int max_rows = max_running + static_cast<int>(random() % 30);
    const Scheduler s(Limits(max_running, max_rows));
    std::vector<RunningSequence> running;
    int32_t wanted = 0, prompts = 0, decodes = 0;
    for (int i = 0; i < max_running; ++i) {
      RunningSequence r = random() % 2 == 0 ? Decoding() : Prefilling(1 + static_cast<int32_t>(random() % 40));
      r.paused = random() % 5 == 0;
      running.push_back(r);
      if (r.paused) continue;
      wanted += r.remaining_tokens;
      ++(r.decoding ? decodes : prompts);
    }
    const uint64_t step = random();
    const V rows = Rows(s, running, step);
    ASSERT_EQ(rows, Rows(s, running, step)) << "equal arguments, equal plans";
    ASSERT_EQ(std::accumulate(rows.begin(), rows.end(), 0), std::min(wanted, max_rows)) << "round " << round;
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_GE(rows[i], 0);
      ASSERT_LE(rows[i], running[i].paused ? 0 : running[i].remaining_tokens);
      if (running[i].paused) continue;
      if (running[i].decoding) {
        ASSERT_EQ(rows[i], 1);
      } else {
        ASSERT_GE(rows[i], std::min(running[i].remaining_tokens, (max_rows - decodes) / 2 / prompts));
      }
    }
  }
}

TEST(PlanRowsProperty, EveryPromptIsServedWithinAsManyStepsAsThereArePrompts) {
  for (int max_rows = 5; max_rows < 12; ++max_rows) {
    const Scheduler s(Limits(5, max_rows));
    std::vector<RunningSequence> running(5, Prefilling(1 << 20));
    std::vector<uint64_t> last_served(5, 0);
    for (uint64_t step = 1; step < 200; ++step) {
      const V rows = Rows(s, running, step);
      for (size_t i = 0; i < 5; ++i) {
        if (rows[i] > 0) last_served[i] = step;
        running[i].remaining_tokens -= rows[i];
        ASSERT_LE(step - last_served[i], 5u) << "sequence " << i << " of " << max_rows << " rows";
      }
    }
  }
}

TEST(PlanAdmission, TakesTheOldestFirstAsLongAsTheirWorstCaseFits) {
  const Scheduler s(Limits(8, 8));
  EXPECT_EQ(Admitted(s, {{3, 0}, {3, 0}, {3, 0}}, 0, 7), (V{0, 1}));
  EXPECT_EQ(Admitted(s, {{3, 0}, {3, 0}, {3, 0}}, 7, 100), (V{0}));
  EXPECT_EQ(Admitted(s, {{3, 0}}, 8, 100), V{});
  EXPECT_EQ(Admitted(s, {}, 0, 100), V{});
}

TEST(PlanAdmission, ASmallOneMayPassABigOneAFewTimes) {
  SchedulerLimits l = Limits(8, 8);
  l.max_passed = 2;
  const Scheduler s(l);
  EXPECT_EQ(Admitted(s, {{10, 0}, {3, 0}}, 1, 5), (V{1}));
  EXPECT_EQ(Admitted(s, {{10, 1}, {3, 0}}, 1, 5), (V{1}));
  EXPECT_EQ(Admitted(s, {{10, 2}, {3, 0}}, 1, 5), V{}) << "now it is its turn";
  EXPECT_EQ(Admitted(s, {{10, 2}, {3, 0}}, 1, 13), (V{0, 1}));
}

TEST(PlanAdmission, LooksAtABoundedNumberOfSequences) {
  SchedulerLimits l = Limits(8, 8);
  l.lookahead = 3;
  const Scheduler s(l);
  EXPECT_EQ(Admitted(s, {{9, 0}, {9, 0}, {9, 0}, {1, 0}}, 1, 5), V{});
}

TEST(PlanAdmission, EverybodyIsAdmittedInTheEndHoweverManySmallOnesKeepComing) {
  SchedulerLimits l = Limits(4, 4);
  l.max_passed = 3;
  const Scheduler s(l);
  // Small sequences hold 2 of 8 pages for 3 steps each; a new one arrives at every step behind the big one.
  std::vector<WaitingSequence> waiting = {{8, 0}};
  std::vector<int> ends = {3};
  for (int step = 0; step < 100; ++step) {
    std::erase_if(ends, [step](int end) { return end <= step; });
    waiting.push_back({2, 0});
    const int32_t free = 8 - 2 * static_cast<int32_t>(ends.size());
    const V admitted = Admitted(s, waiting, static_cast<int>(ends.size()), free);
    if (!admitted.empty() && admitted[0] == 0 && waiting[0].worst_case_pages == 8) return;
    for (auto it = admitted.rbegin(); it != admitted.rend(); ++it) {
      for (int32_t i = 0; i < *it; ++i) ++waiting[static_cast<size_t>(i)].times_passed;
      waiting.erase(waiting.begin() + *it);
      ends.push_back(step + 3);
    }
  }
  FAIL() << "the big sequence was never admitted";
}

TEST(SchedulerDeathTest, MoreSequencesThanTokensOfAStepAreRefused) {
  EXPECT_DEATH(Scheduler(Limits(9, 8)), "max_rows");
}

}  // namespace
}  // namespace dunlin::worker
