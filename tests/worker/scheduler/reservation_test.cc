#include "worker/scheduler/reservation.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace dunlin::worker {
namespace {

OutputPredictor Learned(int32_t length, int32_t max_tokens) {
  OutputPredictor p;
  for (int i = 0; i < 100; ++i) p.Observe(length, max_tokens);
  return p;
}

TEST(Reservation, WithoutKnowledgeItIsTheWorstCase) {
  const OutputPredictor p;
  const ReservationInput s = {.prompt_tokens = 100, .max_output = 61};
  EXPECT_EQ(WorstCasePages(s, 16), 10) << "160 tokens: the last one drawn needs no room";
  EXPECT_EQ(ReservePages(s, p, 16), 10);
  EXPECT_EQ(WorstCasePages({.prompt_tokens = 100, .max_output = 62}, 16), 11);
  EXPECT_EQ(WorstCasePages({.prompt_tokens = 16, .max_output = 0}, 16), 1);
  EXPECT_EQ(WorstCasePages({.prompt_tokens = 16, .max_output = 1}, 16), 1);
}

TEST(Reservation, HoldsThePromptAndThePredictedOutput) {
  const OutputPredictor p = Learned(28, 4096);
  const int32_t predicted = p.Predict(4096);
  ASSERT_LE(predicted, 32);
  EXPECT_EQ(ReservePages({.prompt_tokens = 96, .max_output = 4096}, p, 16), (96 + predicted - 1 + 15) / 16);
}

TEST(Reservation, AProtectedSequenceIsPromisedItsWorstCase) {
  const OutputPredictor p = Learned(28, 4096);
  ReservationInput s = {.prompt_tokens = 96, .generated = 10, .max_output = 4096, .preemptions = 1};
  EXPECT_LT(ReservePages(s, p, 16), 10);
  s.preemptions = kMaxPreemptions;
  EXPECT_EQ(ReservePages(s, p, 16), WorstCasePages(s, 16));
}

TEST(ReservationProperty, CoversWhatIsKnownAndNeverExceedsTheWorstCase) {
  std::mt19937 random(51);
  OutputPredictor p;
  for (int i = 0; i < 20000; ++i) {
    const auto most = static_cast<int32_t>(1 + random() % 2000);
    p.Observe(1 + static_cast<int32_t>(random() % static_cast<uint32_t>(most)), most);
    const ReservationInput s = {.prompt_tokens = 1 + static_cast<int32_t>(random() % 2000),
                                .generated = static_cast<int32_t>(random() % static_cast<uint32_t>(most)),
                                .max_output = most,
                                .preemptions = static_cast<int32_t>(random() % 3)};
    const int32_t page = 1 << (random() % 7);
    const int32_t pages = ReservePages(s, p, page);
    ASSERT_LE(pages, WorstCasePages(s, page)) << i;
    ASSERT_GE(pages * page, s.prompt_tokens + s.generated) << i;
  }
}

VictimView View(int32_t priority, uint64_t age_rank, int32_t preemptions, int32_t recompute, int32_t freed) {
  return {priority, age_rank, preemptions, recompute, freed, false};
}

TEST(ChooseVictim, TheLeastRecomputationPerPage) {
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 10, 10), View(0, 2, 0, 160, 10), View(0, 3, 0, 50, 10)}, 1), 2);
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 10, 10), View(0, 2, 0, 160, 10), View(0, 3, 0, 50, 2)}, 1), 1);
}

TEST(ChooseVictim, TheLowestPriorityFirstThenTheFewestPreemptions) {
  EXPECT_EQ(ChooseVictim(std::vector{View(1, 1, 0, 1, 10), View(0, 2, 1, 900, 1), View(1, 3, 0, 1, 10)}, 0), 1);
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 1, 10), View(0, 2, 1, 1, 10), View(0, 3, 0, 900, 1)}, 0), 2);
}

TEST(ChooseVictim, TheYoungestOfEquals) {
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 16, 1), View(0, 3, 0, 16, 1), View(0, 2, 0, 32, 2)}, 0), 1);
}

TEST(ChooseVictim, NeverAProtectedOneNorTheOldestOfTheHighestPriority) {
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 1, 9), View(0, 2, 2, 1, 9), View(0, 3, 0, 99, 1)}, 0), 2);
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 2, 1, 9), View(5, 2, 0, 1, 9), View(5, 3, 0, 99, 1)}, 1), 2);
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 1, 9), View(0, 2, 0, 99, 1)}, 1), 1) << "it gives way itself";
}

TEST(ChooseVictim, TheAskingOneGivesWayWhenOnlyProtectedOnesAreLeft) {
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 1, 9), View(0, 2, 2, 1, 9)}, 0), 0);
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 1, 9)}, 0), 0);
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 2, 1, 9), View(0, 2, 2, 1, 9)}, 0), -1);
}

TEST(ChooseVictim, APausedSequenceIsNotTheOneThatIsKept) {
  std::vector<VictimView> running = {View(0, 1, 0, 160, 10), View(0, 2, 0, 1600, 10)};
  running[0].paused = true;
  EXPECT_EQ(ChooseVictim(running, 1), 0);
}

TEST(ChooseVictim, OneThatFreesNothingIsLeftAlone) {
  EXPECT_EQ(ChooseVictim(std::vector{View(0, 1, 0, 1, 9), View(0, 2, 0, 0, 0), View(0, 3, 1, 99, 3)}, 0), 2);
}

TEST(ChooseVictimProperty, ObeysItsRulesAndDoesNotDependOnTheOrderOfItsArguments) {
  std::mt19937 random(52);
  for (int round = 0; round < 20000; ++round) {
    SCOPED_TRACE(round);
    std::vector<VictimView> running;
    const size_t n = 1 + random() % 8;
    for (size_t i = 0; i < n; ++i) {
      running.push_back(View(static_cast<int32_t>(random() % 3), i, static_cast<int32_t>(random() % 3),
                             static_cast<int32_t>(random() % 500), static_cast<int32_t>(random() % 30)));
      running.back().paused = random() % 6 == 0;
    }
    const auto asking = static_cast<int32_t>(random() % n);
    const int32_t victim = ChooseVictim(running, asking);
    const VictimView& a = running[static_cast<size_t>(asking)];
    if (victim < 0) {
      ASSERT_EQ(a.preemptions, kMaxPreemptions);
      continue;
    }
    const VictimView& v = running[static_cast<size_t>(victim)];
    ASSERT_LT(v.preemptions, kMaxPreemptions);
    if (a.preemptions < kMaxPreemptions && !v.paused) {
      ASSERT_LE(v.priority, a.priority) << "nobody pushes out a more important one";
    }
    ASSERT_TRUE(victim == asking || v.freed_pages > 0);
    std::vector<VictimView> reversed(running.rbegin(), running.rend());
    const auto last = static_cast<int32_t>(n) - 1;
    ASSERT_EQ(last - ChooseVictim(reversed, last - asking), victim);
  }
}

}  // namespace
}  // namespace dunlin::worker
