#include "worker/engine/prompt_lookup.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace dunlin::worker {
namespace {

using Tokens = std::vector<int32_t>;

Tokens DraftOf(const PromptLookup& lookup, const Tokens& tokens, size_t n) {
  Tokens draft(n);
  if (!lookup.Draft(tokens, draft)) draft.clear();
  return draft;
}

void Append(int32_t token, PromptLookup* lookup, Tokens* tokens) {
  tokens->push_back(token);
  lookup->Append(*tokens);
}

TEST(PromptLookup, DraftsWhatFollowedTheLastOccurrence) {
  Tokens tokens = {1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 7, 8, 1, 2, 3};
  PromptLookup lookup(tokens, 100);
  EXPECT_EQ(DraftOf(lookup, tokens, 3), (Tokens{6, 7, 8}));
  EXPECT_EQ(lookup.matched(), 3);
  // Three tokens say more than two: "2 3" alone was followed by 8 last.
  Tokens longer = {1, 2, 3, 7, 5, 2, 3, 8, 1, 2, 3};
  EXPECT_EQ(DraftOf(PromptLookup(longer, 100), longer, 1), (Tokens{7}));
  Tokens pair = {4, 2, 3, 7, 5, 1, 2, 3};
  EXPECT_EQ(DraftOf(PromptLookup(pair, 100), pair, 2), (Tokens{7, 5}));
}

TEST(PromptLookup, HasNothingToSayAboutNewText) {
  EXPECT_TRUE(DraftOf(PromptLookup(Tokens{}, 100), {}, 2).empty());
  for (const Tokens& tokens : {Tokens{1}, Tokens{1, 1}, Tokens{1, 2, 3, 4, 5}, Tokens{1, 2, 9, 2, 8}}) {
    EXPECT_TRUE(DraftOf(PromptLookup(tokens, 100), tokens, 2).empty());
  }
}

TEST(PromptLookup, APassageThatRunsIntoTheEndRepeatsItself) {
  const Tokens same(3, 5);
  EXPECT_EQ(DraftOf(PromptLookup(same, 100), same, 5), Tokens(5, 5));
  const Tokens period = {9, 1, 2, 3, 1, 2, 3};
  EXPECT_EQ(DraftOf(PromptLookup(period, 100), period, 7), (Tokens{1, 2, 3, 1, 2, 3, 1}));
}

TEST(PromptLookup, FollowsAPassageWhileItIsRightAndLooksAgainWhenItIsNot) {
  Tokens tokens = {1, 2, 3, 4, 5, 6, 7, 8, 40, 41, 42, 43, 1, 2, 3};
  PromptLookup lookup(tokens, 100);
  Append(4, &lookup, &tokens);
  Append(5, &lookup, &tokens);
  EXPECT_EQ(lookup.matched(), 5);
  EXPECT_EQ(DraftOf(lookup, tokens, 2), (Tokens{6, 7}));
  Append(41, &lookup, &tokens);  // wrong, and "5 41" is new
  EXPECT_EQ(lookup.matched(), 0);
  Append(42, &lookup, &tokens);
  EXPECT_EQ(lookup.matched(), 2);
  EXPECT_EQ(DraftOf(lookup, tokens, 2), (Tokens{43, 1}));
}

TEST(PromptLookup, TheOddsFollowWhatIsDrawn) {
  Tokens tokens = {1, 2, 3, 1, 2, 3};
  PromptLookup lookup(tokens, 1000);
  const float first = lookup.Chance(0);
  EXPECT_GT(lookup.Chance(20), first);  // the longer the match, the likelier it goes on
  for (int i = 0; i < 60; ++i) Append(1 + i % 3, &lookup, &tokens);
  EXPECT_GT(lookup.Chance(0), 0.95f);
  // Text whose pairs come back and never go on as before: two of three tokens are new.
  for (int32_t i = 0; i < 200; ++i) {
    Append(1, &lookup, &tokens);
    Append(2, &lookup, &tokens);
    EXPECT_GT(lookup.matched(), 0);
    Append(1000 + i, &lookup, &tokens);
  }
  Append(1, &lookup, &tokens);
  Append(2, &lookup, &tokens);
  EXPECT_EQ(lookup.matched(), 2);
  EXPECT_LT(lookup.Chance(0), 0.01f);
}

// Beside the plainest search: what is drafted did follow an earlier occurrence of what stands before it; while its
// index forgets nothing, a draft is there exactly when the last two tokens occurred before.
TEST(PromptLookup, AgreesWithASearch) {
  int drafts = 0, missed = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const auto vocab = 2 + random() % 12;
    Tokens tokens(random() % 50);
    for (int32_t& t : tokens) t = static_cast<int32_t>(random() % vocab);
    PromptLookup lookup(tokens, 400);
    while (tokens.size() < 400) {
      Append(static_cast<int32_t>(random() % vocab), &lookup, &tokens);
      const Tokens draft = DraftOf(lookup, tokens, 3);
      const std::span<const int32_t> all(tokens);
      bool seen = false, follows = false;
      for (size_t end = 2; end < tokens.size(); ++end) {
        if (!std::ranges::equal(all.subspan(end - 2, 2), all.last(2))) continue;
        seen = true;
        Tokens rest(all.begin() + static_cast<std::ptrdiff_t>(end), all.end());
        for (size_t i = 0; rest.size() < 3; ++i) rest.push_back(rest[i]);
        follows = follows || std::equal(draft.begin(), draft.end(), rest.begin());
      }
      if (draft.empty()) {
        missed += seen ? 1 : 0;
      } else {
        ++drafts;
        ASSERT_TRUE(follows) << "after " << tokens.size() << " tokens";
      }
    }
  }
  EXPECT_GT(drafts, 10000);
  EXPECT_LT(missed, drafts / 20);  // two pairs with one place in the index
}

TEST(PromptLookup, AnIndexTooSmallForItsTextForgetsAndStaysRight) {
  std::mt19937_64 random(7);
  Tokens tokens;
  for (int i = 0; i < 60000; ++i) tokens.push_back(static_cast<int32_t>(random() % 300));
  tokens.insert(tokens.end(), tokens.end() - 500, tokens.end() - 400);
  PromptLookup lookup(tokens, 1 << 20);
  EXPECT_EQ(lookup.matched(), 3);
  EXPECT_EQ(DraftOf(lookup, tokens, 4), Tokens(tokens.end() - 500, tokens.end() - 496));
}

}  // namespace
}  // namespace dunlin::worker
