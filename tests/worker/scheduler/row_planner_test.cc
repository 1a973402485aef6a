#include "worker/scheduler/row_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "worker/scheduler/scheduler_checks.h"

namespace dunlin::worker {
namespace {

constexpr int32_t kNoLimit = StepTimeModel::kUnlimited;
using V = std::vector<int32_t>;

RowLimits Limits(int32_t max_rows, int32_t page_tokens = 16) {
  RowLimits l;
  l.max_rows = max_rows;
  l.page_tokens = page_tokens;
  return l;
}
RowView Decoding(int32_t computed = 100) {
  RowView v;
  v.remaining = 1;
  v.computed = computed;
  v.decoding = true;
  return v;
}
RowView Prompt(int32_t remaining, int32_t computed = 0) {
  RowView v;
  v.remaining = remaining;
  v.computed = computed;
  return v;
}
RowView Paused(RowView v) {
  v.paused = true;
  return v;
}
RowView Blocked(RowView v) {
  v.blocked = true;
  return v;
}
V Rows(RowPlanner* planner, const std::vector<RowView>& running, uint64_t step = 1, int32_t time_limit = kNoLimit) {
  V rows;
  planner->Plan(running, step, time_limit, &rows);
  EXPECT_EQ(CheckBudget(running, rows, planner->limits()), "");
  return rows;
}
int32_t Sum(const V& rows) { return std::accumulate(rows.begin(), rows.end(), 0); }

// What the engine does after a step.
void Advance(std::vector<RowView>* running, const V& rows, uint64_t step) {
  for (size_t i = 0; i < rows.size(); ++i) {
    RowView& s = (*running)[i];
    if (rows[i] > 0 || s.paused || s.blocked) s.last_advanced = step;
    s.computed += rows[i];
    s.remaining -= rows[i];
    if (s.remaining == 0) {
      s.remaining = 1;
      s.decoding = true;
    }
  }
}

TEST(RowPlanner, EveryDecodingSequenceGetsItsTokenBeforeAnyPrompt) {
  RowPlanner p(Limits(19));
  EXPECT_EQ(Rows(&p, {Prompt(100), Decoding(), Decoding(), Decoding()}), (V{16, 1, 1, 1}));
}

TEST(RowPlanner, PausedAndBlockedGetNothingAndTheirShareGoesToOthers) {
  RowPlanner p(Limits(33));
  EXPECT_EQ(Rows(&p, {Prompt(100), Paused(Decoding()), Paused(Prompt(3)), Blocked(Prompt(50)), Decoding()}),
            (V{32, 0, 0, 0, 1}));
  EXPECT_EQ(Rows(&p, {Paused(Prompt(1)), Blocked(Prompt(2))}), (V{0, 0}));
  EXPECT_EQ(Rows(&p, {}), V{});
}

TEST(RowPlanner, AShortPromptFinishesInOneStepBesideFourLongOnes) {
  RowPlanner p(Limits(256));
  const V rows = Rows(&p, {Prompt(4000), Prompt(4000), Prompt(4000), Prompt(4000), Prompt(100)});
  EXPECT_EQ(rows[4], 100);
  for (int i = 0; i < 4; ++i) EXPECT_GE(rows[static_cast<size_t>(i)], 16) << "the long ones go on";
  EXPECT_GE(Sum(rows), 256 - 15);
}

TEST(RowPlanner, FourLongPromptsAllAdvanceInEveryStep) {
  RowPlanner p(Limits(256));
  std::vector<RowView> running(4, Prompt(4000));
  for (uint64_t step = 1; step < 20; ++step) {
    const V rows = Rows(&p, running, step);
    for (const int32_t r : rows) EXPECT_GE(r, 256 / 2 / 4 - 15) << "at least B / 2P each, in whole pages";
    Advance(&running, rows, step);
  }
}

TEST(RowPlanner, ChunksThatLeaveAPromptUnfinishedEndAtPageBoundaries) {
  RowPlanner p(Limits(100));
  for (const int32_t computed : {0, 5, 15, 16}) {
    const V rows = Rows(&p, {Prompt(1000, computed), Prompt(2000, computed + 3)});
    EXPECT_EQ((computed + rows[0]) % 16, 0) << computed;
    EXPECT_EQ((computed + 3 + rows[1]) % 16, 0) << computed;
    EXPECT_GT(Sum(rows), 100 - 16) << "less than a page is left";
  }
  EXPECT_EQ(Rows(&p, {Prompt(90)}), V{90}) << "the end of a prompt is where it is";
}

TEST(RowPlanner, AStepSmallerThanAPageStillAdvances) {
  RowPlanner p(Limits(5));
  EXPECT_EQ(Rows(&p, {Prompt(100), Decoding(), Decoding()}), (V{3, 1, 1}));
  EXPECT_EQ(Rows(&p, {Prompt(100), Prompt(50)}), (V{0, 5}));
}

TEST(RowPlanner, TheTimeLimitShrinksPromptsToAPageAtLeastAndNeverADecode) {
  RowPlanner p(Limits(256));
  EXPECT_EQ(Rows(&p, {Decoding(), Prompt(1000)}, 1, 65), (V{1, 64}));
  EXPECT_EQ(Rows(&p, {Decoding(), Prompt(1000)}, 1, 3), (V{1, 16}));
  EXPECT_EQ(Rows(&p, {Decoding(), Decoding(), Decoding(), Prompt(1000)}, 1, 0), (V{1, 1, 1, 16}));
}

TEST(RowPlanner, TheTimeLimitIsTheModelsForTheDecodesOfTheStep) {
  StepTimeModel model;
  const std::vector<RowView> decodes = {Decoding(1000), Decoding(1000), Prompt(500)};
  EXPECT_EQ(RowPlanner::TimeLimit(decodes, model, absl::Milliseconds(10)), kNoLimit) << "nothing learnt yet";
  for (int i = 0; i < 400; ++i) {  // 1 ms + 0.1 ms per token + 1 us per token of context
    const int32_t tokens = 1 + i % 97;
    const int64_t context = (i * 37) % 5000;
    model.Observe(tokens, context,
                  absl::Milliseconds(1) + tokens * absl::Microseconds(100) + context * absl::Microseconds(1));
  }
  EXPECT_NEAR(RowPlanner::TimeLimit(decodes, model, absl::Milliseconds(10)), (10 - 1 - 2) / 0.1, 2);
  EXPECT_EQ(RowPlanner::TimeLimit(decodes, model, absl::InfiniteDuration()), kNoLimit);
  EXPECT_EQ(RowPlanner::TimeLimit(std::vector<RowView>{Prompt(9), Paused(Decoding(10))}, model, absl::Milliseconds(10)),
            kNoLimit)
      << "nobody waits for a token";
  // A prompt whose rows attend to 900 tokens each costs ten times as much per token.
  const std::vector<RowView> late = {Decoding(1000), Decoding(1000), Prompt(500, 900)};
  EXPECT_NEAR(RowPlanner::TimeLimit(late, model, absl::Milliseconds(10)), 2 + (10 - 1 - 2 - 0.2) / 1.0, 1);
}

TEST(RowPlanner, OlderPromptsHaveLongerTurns) {
  RowPlanner p(Limits(1024));
  std::vector<RowView> running(4, Prompt(100000));
  running[0].remaining = 50000;  // takes the half for the shortest
  running[3].admitted_step = 1000;
  for (RowView& s : running) s.last_advanced = 1000;
  const V rows = Rows(&p, running, 1001);
  EXPECT_GT(rows[1], 3 * rows[3]) << "it has been at it for a thousand steps";
  EXPECT_GT(rows[3], 0);
}

TEST(RowPlannerProperty, KeepsTheBudgetSpendsItAndIsDeterministic) {
  std::mt19937 random(41);
  for (int round = 0; round < 30000; ++round) {
    SCOPED_TRACE(round);
    const int32_t page = 1 << (random() % 6);
    const auto count = static_cast<int32_t>(random() % 12);
    const auto max_rows = static_cast<int32_t>(std::max(count, 1) + static_cast<int32_t>(random() % 200));
    RowPlanner p(Limits(max_rows, page)), twin(Limits(max_rows, page));
    const uint64_t step = 100 + random() % 100;
    std::vector<RowView> running;
    int32_t decodes = 0, prompts = 0;
    int64_t wanted = 0;
    for (int32_t i = 0; i < count; ++i) {
      RowView s = random() % 2 == 0
                      ? Decoding(static_cast<int32_t>(random() % 500))
                      : Prompt(1 + static_cast<int32_t>(random() % 300), static_cast<int32_t>(random() % 100));
      s.paused = random() % 8 == 0;
      s.blocked = !s.decoding && random() % 8 == 0;
      s.admitted_step = random() % step;
      s.last_advanced = s.admitted_step + random() % (step - s.admitted_step);
      running.push_back(s);
      if (s.paused || s.blocked) continue;
      ++(s.decoding ? decodes : prompts);
      if (!s.decoding) wanted += s.remaining;
    }
    const int32_t limit = random() % 3 == 0 ? kNoLimit : static_cast<int32_t>(random() % 300);
    const V rows = Rows(&p, running, step, limit);
    ASSERT_EQ(rows, Rows(&twin, running, step, limit)) << "equal arguments, equal plans";
    ASSERT_EQ(rows, Rows(&p, running, step, limit)) << "whatever was planned before";
    const int32_t total = Sum(rows);
    if (prompts == 0) continue;
    const int32_t room = max_rows - decodes;
    const int32_t budget = std::clamp(limit - decodes, std::min(room, page), room);
    const int32_t spent = total - decodes;
    ASSERT_GE(spent, std::min<int64_t>(wanted, std::max(1, budget - page + 1))) << "less than a page is left over";
    // The budget may be exceeded only for those whose turn is due, a token each.
    ASSERT_LE(spent, std::max(budget, prompts));
    // Half of it goes to the shortest first.
    const int32_t overdue = static_cast<int32_t>(std::count_if(
        running.begin(), running.end(), [&](const RowView& s) { return !s.decoding && step - s.last_advanced >= 4; }));
    if (budget < 2 * page || overdue > 0) continue;
    int32_t shortest = 1 << 30;
    size_t who = 0;
    for (size_t i = 0; i < running.size(); ++i) {
      const RowView& s = running[i];
      if (s.decoding || s.paused || s.blocked || s.remaining >= shortest) continue;
      shortest = s.remaining;
      who = i;
    }
    ASSERT_GE(rows[who], std::min(shortest, budget / 2 - page + 1));
  }
}

// Prompts of any length come and go, decodes come and go, the time limit jumps: no prompt ever waits for more than
// 2P = 8 steps.
TEST(RowPlannerProperty, EveryPromptAdvancesWithinEightSteps) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto most = static_cast<int32_t>(2 + random() % 64);
    RowPlanner p(Limits(most + static_cast<int32_t>(random() % 300), 1 << (random() % 6)));
    std::vector<RowView> running;
    int32_t gap = 0;
    for (uint64_t step = 1; step < 300; ++step) {
      while (static_cast<int32_t>(running.size()) < most && random() % 4 != 0) {
        RowView s = Prompt(1 + static_cast<int32_t>(random() % (random() % 2 == 0 ? 100 : 5000)));
        s.admitted_step = s.last_advanced = step;
        running.push_back(s);
      }
      std::erase_if(running, [&](const RowView& s) { return s.decoding && random() % 8 == 0; });
      if (random() % 50 == 0) std::erase_if(running, [&](const RowView&) { return random() % 2 == 0; });
      const V rows = Rows(&p, running, step, random() % 2 == 0 ? kNoLimit : static_cast<int32_t>(random() % 100));
      for (size_t i = 0; i < rows.size(); ++i) {
        if (rows[i] > 0 && !running[i].decoding)
          gap = std::max(gap, static_cast<int32_t>(step - running[i].last_advanced));
      }
      Advance(&running, rows, step);
      ASSERT_EQ(CheckProgress(running, step, p.limits()), "");
    }
    ASSERT_LE(gap, 8);
  }
}

TEST(RowPlannerDeathTest, MoreSequencesThanTokensOfAStepAreRefused) {
  RowPlanner p(Limits(2));
  EXPECT_DEATH(Rows(&p, {Decoding(), Decoding(), Decoding()}), "max_rows");
}

}  // namespace
}  // namespace dunlin::worker
