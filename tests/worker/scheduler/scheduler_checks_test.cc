#include "worker/scheduler/scheduler_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace dunlin::worker {
namespace {

using testing::HasSubstr;
using V = std::vector<int32_t>;

RowView Decoding() {
  RowView v;
  v.remaining = 1;
  v.decoding = true;
  return v;
}
RowView Prompt(int32_t remaining) {
  RowView v;
  v.remaining = remaining;
  return v;
}
RowLimits Rows(int32_t max_rows) {
  RowLimits l;
  l.max_rows = max_rows;
  return l;
}

TEST(CheckBudget, AcceptsAPlanThatKeepsIt) {
  RowView paused = Decoding(), blocked = Prompt(5);
  paused.paused = blocked.blocked = true;
  EXPECT_EQ(CheckBudget(std::vector{Decoding(), Prompt(5), paused, blocked}, V{1, 3, 0, 0}, Rows(4)), "");
}

TEST(CheckBudget, FindsEachKindOfViolation) {
  RowView paused = Decoding(), blocked = Prompt(5);
  paused.paused = blocked.blocked = true;
  EXPECT_THAT(CheckBudget(std::vector{Decoding(), Prompt(5)}, V{1, 4}, Rows(4)), HasSubstr("5 tokens of 4"));
  EXPECT_THAT(CheckBudget(std::vector{Prompt(5)}, V{6}, Rows(9)), HasSubstr("6 of 5"));
  EXPECT_THAT(CheckBudget(std::vector{Prompt(5)}, V{-1}, Rows(9)), HasSubstr("-1 of 5"));
  EXPECT_THAT(CheckBudget(std::vector{Decoding(), Prompt(5)}, V{0, 4}, Rows(9)), HasSubstr("gets no token"));
  EXPECT_THAT(CheckBudget(std::vector{paused}, V{1}, Rows(9)), HasSubstr("must wait"));
  EXPECT_THAT(CheckBudget(std::vector{blocked}, V{1}, Rows(9)), HasSubstr("must wait"));
  EXPECT_THAT(CheckBudget(std::vector{Decoding()}, V{}, Rows(9)), HasSubstr("0 shares for 1"));
}

TEST(CheckPromises, FindsWhatIsPromisedTwice) {
  EXPECT_EQ(CheckPromises(V{5, 3}, V{2, 3}, 3), "");
  EXPECT_THAT(CheckPromises(V{5, 3}, V{2, 3}, 2), HasSubstr("3 pages are outstanding, 2"));
  EXPECT_THAT(CheckPromises(V{5, 3}, V{2, 4}, 9), HasSubstr("sequence 1 holds 4"));
}

TEST(CheckProgress, FindsAPromptThatIsForgotten) {
  std::vector<RowView> running = {Prompt(5), Decoding()};
  running[0].last_advanced = 10;
  EXPECT_EQ(CheckProgress(running, 18, Rows(9)), "");
  EXPECT_THAT(CheckProgress(running, 19, Rows(9)), HasSubstr("sequence 0"));
  running[0].paused = true;
  EXPECT_EQ(CheckProgress(running, 19, Rows(9)), "");
}

}  // namespace
}  // namespace dunlin::worker
