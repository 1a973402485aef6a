// The mask's arithmetic against its definition, token by token.
#include "kernels/attention_mask.h"

#include <vector>

#include "gtest/gtest.h"

namespace dunlin::kernels {
namespace {

bool Sees(const AttentionPattern& pattern, int position, int token) {
  if (token < 0 || token > position) return false;
  return pattern.window == 0 || token > position - pattern.window || token < pattern.sinks;
}

std::vector<AttentionPattern> Patterns() {
  std::vector<AttentionPattern> patterns = {{0, 0, 0}};
  for (const int window : {1, 2, 7, 8, 9, 30}) {
    for (const int sinks : {0, 1, 3, 8, 9, 20, 60}) patterns.push_back({window, sinks, 0});
  }
  return patterns;
}

// Every answer of `runs` about the indices that `expected` marks.
void ExpectRuns(const SeenRuns& runs, const std::vector<bool>& expected) {
  const auto n = static_cast<int>(expected.size());
  int count = 0;
  for (int i = 0; i < n; ++i) {
    EXPECT_EQ(runs.Contains(i), expected[static_cast<size_t>(i)]) << "index " << i;
    count += expected[static_cast<size_t>(i)];
  }
  EXPECT_FALSE(runs.Contains(-1));
  EXPECT_FALSE(runs.Contains(n));
  EXPECT_EQ(runs.Count(), count);
  EXPECT_TRUE(runs.sink_end == 0 || runs.sink_end < runs.low) << "touching runs are one";
  for (int first = 0; first < n; first += 3) {
    bool met = false;
    EXPECT_FALSE(runs.Meets(first, first));
    for (int last = first + 1; last <= n + 2; ++last) {
      met = met || (last <= n && expected[static_cast<size_t>(last - 1)]);
      EXPECT_EQ(runs.Meets(first, last), met) << first << " to " << last;
    }
  }
}

TEST(AttentionMask, RowsSeeWhatTheDefinitionSays) {
  for (const AttentionPattern& pattern : Patterns()) {
    for (int first = 0; first < 40; ++first) {
      for (const int rows : {1, 2, 9}) {
        SCOPED_TRACE(::testing::Message() << "window " << pattern.window << " sinks " << pattern.sinks << " rows "
                                          << first << " to " << first + rows - 1);
        const SeenRuns tokens = TokensSeen(pattern, first, first + rows - 1);
        std::vector<bool> seen(static_cast<size_t>(first + rows), false);
        for (int row = first; row < first + rows; ++row) {
          for (int t = 0; t <= row; ++t) {
            if (Sees(pattern, row, t)) seen[static_cast<size_t>(t)] = true;
          }
        }
        ExpectRuns(tokens, seen);
        for (const int page_tokens : {1, 8, 16}) {
          std::vector<bool> pages((seen.size() + static_cast<size_t>(page_tokens) - 1) /
                                  static_cast<size_t>(page_tokens));
          for (size_t t = 0; t < seen.size(); ++t) {
            if (seen[t]) pages[t / static_cast<size_t>(page_tokens)] = true;
          }
          ExpectRuns(PagesOf(tokens, page_tokens), pages);
        }
      }
    }
  }
}

TEST(AttentionMask, RowsSelectOnlyAmongMoreThanTopPages) {
  const SeenRuns pages{1, 4, 7};  // four pages
  EXPECT_FALSE(SelectsPages({0, 0, 0}, pages));
  EXPECT_TRUE(SelectsPages({0, 0, 3}, pages));
  EXPECT_FALSE(SelectsPages({0, 0, 4}, pages));
}

TEST(AttentionMask, TheLowerPageWinsATie) {
  EXPECT_TRUE(PageScoredBefore(2.0f, 9, 1.0f, 3));
  EXPECT_FALSE(PageScoredBefore(1.0f, 3, 2.0f, 9));
  EXPECT_TRUE(PageScoredBefore(1.0f, 3, 1.0f, 9));
  EXPECT_FALSE(PageScoredBefore(1.0f, 9, 1.0f, 3));
  EXPECT_FALSE(PageScoredBefore(1.0f, 3, 1.0f, 3)) << "a strict order";
}

}  // namespace
}  // namespace dunlin::kernels
