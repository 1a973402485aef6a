#include "worker/scheduler/draft_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace dunlin::worker {
namespace {

using V = std::vector<int32_t>;

// Has learnt exactly t = fixed + per_row * rows.
StepTimeModel Model(double fixed, double per_row) {
  StepTimeModel model;
  for (int i = 0; i < 400; ++i) {
    const int32_t rows = 1 + i * 7 % 40;
    model.Observe(rows, 0, absl::Seconds(fixed + per_row * rows));
  }
  return model;
}

DraftView Draft(int32_t most, float chance) {
  DraftView v;
  v.most = most;
  std::fill_n(v.chance.begin(), most, chance);
  return v;
}

V Plan(const std::vector<DraftView>& sequences, const StepTimeModel& model, DraftLimits limits = {},
       uint64_t step = 0) {
  V rows;
  PlanDrafts(sequences, limits, step, model, &rows);
  return rows;
}

TEST(DraftPlanner, TakesWhatIsWorthMoreThanItCosts) {
  // A step of one row takes 10, each further one 1: a row is worth it from a chance of 0.15 on.
  const StepTimeModel model = Model(0.009, 0.001);
  EXPECT_EQ(Plan({Draft(8, 0.0f)}, model), V{0});
  EXPECT_EQ(Plan({Draft(8, 0.1f)}, model), V{0});
  EXPECT_EQ(Plan({Draft(8, 0.2f)}, model), V{1});  // the second: 0.04
  EXPECT_EQ(Plan({Draft(8, 0.99f)}, model), V{8});
  const V half = Plan({Draft(8, 0.5f)}, model);
  EXPECT_TRUE(half[0] >= 1 && half[0] <= 3) << half[0];
  EXPECT_EQ(Plan({Draft(0, 0.0f)}, model), V{0});
  EXPECT_EQ(Plan({}, model), V{});
}

TEST(DraftPlanner, FollowsWhatRowsCost) {
  EXPECT_EQ(Plan({Draft(8, 0.9f)}, Model(0.010, 0.00001)), V{8});
  EXPECT_EQ(Plan({Draft(8, 0.9f)}, Model(0.00001, 0.010)), V{0});  // rows cost what the step costs
  // Longer drafts where rows are cheaper, all else equal.
  int32_t last = kMaxDraftTokens;
  for (const double per_row : {0.0001, 0.001, 0.002, 0.004, 0.008}) {
    const int32_t rows = Plan({Draft(kMaxDraftTokens, 0.8f)}, Model(0.010, per_row))[0];
    EXPECT_LE(rows, last);
    last = rows;
  }
  EXPECT_LE(last, 1);
}

TEST(DraftPlanner, KnowsNothingBeforeTheModelDoes) {
  StepTimeModel model;
  EXPECT_EQ(Plan({Draft(4, 0.9f)}, model), V{0});
  EXPECT_EQ(Plan({Draft(4, 0.9f), Draft(2, 0.0f)}, model, {.drafting = Drafting::kAlways}), (V{4, 2}));
}

TEST(DraftPlanner, OthersAreDelayedByAQuarterAtMostAndTakeTurns) {
  const StepTimeModel model = Model(0.009, 0.0005);  // four sequences: 11 ms, so 5 rows more
  V sums(4);
  for (uint64_t step = 0; step < 8; ++step) {
    const V rows = Plan(std::vector<DraftView>(4, Draft(8, 1.0f)), model, {}, step);
    const int32_t all = std::accumulate(rows.begin(), rows.end(), 0);
    EXPECT_GE(all, 4);
    EXPECT_LE(all, 5);
    for (size_t i = 0; i < 4; ++i) sums[i] += rows[i];
  }
  EXPECT_EQ(sums, V(4, sums[0]));
  // Alone it delays nobody but itself.
  EXPECT_EQ(Plan({Draft(8, 1.0f)}, model), V{8});
}

TEST(DraftPlanner, KeepsTheStepsLimits) {
  const StepTimeModel model = Model(0.009, 0.0001);
  EXPECT_EQ(Plan({Draft(8, 1.0f)}, model, {.max_rows = 4}), V{3});
  EXPECT_EQ(Plan({Draft(8, 1.0f), Draft(8, 1.0f)}, model, {.max_rows = 2}), (V{0, 0}));
  EXPECT_EQ(Plan({Draft(8, 1.0f), Draft(8, 1.0f)}, model, {.max_rows = 1}), (V{0, 0}));
  EXPECT_EQ(Plan({Draft(8, 1.0f), Draft(8, 1.0f)}, model, {.max_rows = 7, .drafting = Drafting::kAlways}), (V{5, 0}));
  const V rows = Plan({Draft(8, 1.0f)}, model, {.target = absl::Microseconds(9350)});  // 9.1 ms and 0.1 each
  EXPECT_TRUE(rows == V{2} || rows == V{1}) << rows[0];
  EXPECT_EQ(Plan({Draft(8, 1.0f)}, model, {.target = absl::Milliseconds(9)}), V{0});
}

TEST(DraftPlanner, NeverExceedsWhatItWasGiven) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const auto below = [&random](uint64_t n) { return static_cast<int32_t>(random() % n); };
    std::vector<DraftView> sequences(static_cast<size_t>(below(9)));
    for (DraftView& s : sequences) {
      s.most = below(kMaxDraftTokens + 1);
      s.context = below(3000);
      for (float& c : s.chance) c = static_cast<float>(below(101)) / 100.0f;
    }
    StepTimeModel model;
    for (int i = below(40); i > 0; --i) {
      model.Observe(1 + below(64), below(100000), absl::Microseconds(below(20000) - 100));
    }
    DraftLimits limits;
    limits.max_rows = static_cast<int32_t>(sequences.size()) + below(20);
    if (below(3) == 0) limits.drafting = Drafting::kAlways;
    if (below(3) == 0) limits.target = absl::Microseconds(below(20000));
    const V rows = Plan(sequences, model, limits, random());
    ASSERT_EQ(rows.size(), sequences.size());
    int64_t all = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_GE(rows[i], 0);
      ASSERT_LE(rows[i], sequences[i].most);
      all += 1 + rows[i];
    }
    ASSERT_LE(all, limits.max_rows);
  }
}

}  // namespace
}  // namespace dunlin::worker
