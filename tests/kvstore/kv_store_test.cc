// Tables and the prefix cache of a KvStore; writing and steps: kv_store_step_test.cc.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kvstore/invariants.h"
#include "kvstore/kv_store.h"
#include "tests/kvstore/kv_store_fixture.h"

namespace dunlin::kv {
namespace {

using enum ReserveOutcome;

// ---- Sequences and their tables ----

TEST_F(KvStoreTest, ReserveRoundsUpToWholePagesAndNeverShrinks) {
  Make(4, 16);
  const SequenceId s = Match(Range(0, 3)).sequence;
  EXPECT_EQ(kv_->Reserve(s, 0, 1), kGranted);
  EXPECT_EQ(kv_->PageTable(s).size(), 1u);
  EXPECT_EQ(kv_->Reserve(s, 0, 17), kGranted);
  EXPECT_EQ(kv_->PageTable(s).size(), 2u);
  EXPECT_EQ(kv_->Reserve(s, 0, 16), kGranted);
  EXPECT_EQ(kv_->PageTable(s).size(), 2u);
  EXPECT_EQ(kv_->Reserve(s, 0, 65), kFull);
  EXPECT_EQ(kv_->PageTable(s).size(), 2u);
  EXPECT_EQ(kv_->AvailablePages(), 2);
  kv_->Release(s);
  EXPECT_EQ(kv_->AvailablePages(), 4);
}

TEST_F(KvStoreTest, AClosedSequenceIsReusedAndStartsEmpty) {
  Make(4);
  const SequenceId first = Match(Range(0, 3)).sequence;
  EXPECT_EQ(kv_->Reserve(first, 0, 8), kGranted);
  kv_->Release(first);
  const SequenceId second = Match(Range(0, 3)).sequence;
  EXPECT_EQ(first, second);
  EXPECT_TRUE(kv_->PageTable(second).empty());
}

using KvStoreDeathTest = KvStoreTest;

TEST_F(KvStoreDeathTest, AClosedSequenceMayNotBeUsed) {
  Make(4);
  const SequenceId s = Match(Range(0, 3)).sequence;
  kv_->Release(s);
  EXPECT_DEATH(kv_->Release(s), "closed");
  EXPECT_DEATH(kv_->PageTable(s), "closed");
}

TEST_F(KvStoreDeathTest, MoreTokensThanItsPagesHoldMayNotBePublished) {
  Make(4);
  const SequenceId s = Match(Range(0, 8)).sequence;
  EXPECT_EQ(kv_->Reserve(s, 0, 2), kGranted);
  EXPECT_DEATH(kv_->Publish(s, Range(0, 5)), "tokens");
}

TEST_F(KvStoreTest, TruncateGivesUpWhatTheTokensDoNotNeed) {
  Make(4);
  const SequenceId s = Match(Range(0, 3)).sequence;
  ASSERT_EQ(kv_->Reserve(s, 0, 16), kGranted);
  kv_->Truncate(s, 5);
  EXPECT_EQ(kv_->PageTable(s).size(), 2u);
  kv_->Truncate(s, 12);
  EXPECT_EQ(kv_->PageTable(s).size(), 2u);
  kv_->Truncate(s, 0);
  EXPECT_EQ(kv_->AvailablePages(), 4);
}

// ---- The prefix cache ----

TEST_F(KvStoreTest, ASecondPromptSharesTheWholePagesOfTheFirst) {
  for (const int page_tokens : {8, 16, 32, 64}) {
    SCOPED_TRACE(page_tokens);
    Make(16, page_tokens);
    const Tokens system = Range(100, 3 * page_tokens);
    const SequenceId a = Run(system + Range(1000, 5));
    const MatchResult b = Match(system + Range(2000, 5));
    EXPECT_EQ(b.matched_tokens, 3 * page_tokens);
    EXPECT_EQ(b.copied_tokens, 0);
    EXPECT_EQ(Table(b.sequence), Copy(kv_->PageTable(a).first(3)));
    kv_->Release(a);
    const MatchResult c = Match(system + Range(2000, 5));
    EXPECT_EQ(c.matched_tokens, 3 * page_tokens) << "cached or held makes no difference";
    kv_->Release(b.sequence);
    kv_->Release(c.sequence);
    EXPECT_EQ(kv_->Stats().cached, 3);
    EXPECT_EQ(kv_->CheckIdle(), "");
  }
}

TEST_F(KvStoreTest, WhatIsNotPublishedOrNotReadIsNotShared) {
  Make(16);
  const Tokens prompt = Range(0, 12);
  const SequenceId a = Match(prompt).sequence;
  ASSERT_EQ(kv_->Reserve(a, 0, 12), kGranted);
  EXPECT_EQ(Match(prompt).matched_tokens, 0);
  kv_->Publish(a, First(prompt, 7));
  EXPECT_EQ(Match(prompt).matched_tokens, 4);
  EXPECT_EQ(kv_->Match("tenant", prompt, {.read = false, .restore = false}).matched_tokens, 0);
}

TEST_F(KvStoreTest, NamespacesNeverShare) {
  Make(16);
  Cache(Range(0, 13), "a");
  EXPECT_EQ(Match(Range(0, 13), "b").matched_tokens, 0);
  EXPECT_EQ(Match(Range(0, 13), "").matched_tokens, 0);
  EXPECT_EQ(Match(Range(0, 13), "a").matched_tokens, 12);
}

TEST_F(KvStoreTest, AFullPromptHitRecomputesOneToken) {
  Make(16);
  const Tokens prompt = Range(0, 12);
  Cache(prompt);
  const MatchResult m = Match(prompt);
  EXPECT_EQ(m.matched_tokens, 11);
  EXPECT_EQ(m.copied_tokens, 3);
  EXPECT_EQ(kv_->PageTable(m.sequence).size(), 3u);
  const std::vector<PageMove> moves = Moves();
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].kind, PageMove::Kind::kCopy);
  EXPECT_EQ(moves[0].to, kv_->PageTable(m.sequence)[2]);
  EXPECT_NE(moves[0].from, moves[0].to);
  // Computing the last token makes a duplicate, which gives way to the indexed page.
  Compute(m.sequence, 11, prompt);
  EXPECT_EQ(kv_->PageTable(m.sequence)[2], moves[0].from);
  EXPECT_EQ(kv_->Stats().dedup_pages, 1u);
  EXPECT_EQ(kv_->Stats().copied_pages, 1u);
}

TEST_F(KvStoreTest, AFullPromptHitIsFoundAmongManySiblings) {
  Make(64);
  const Tokens prompt = Range(0, 8);
  Cache(prompt);
  for (int32_t i = 0; i < 30; ++i) Cache(Range(0, 4) + Range(100 * (i + 1), 4));
  EXPECT_EQ(Match(prompt).matched_tokens, 7);
}

TEST_F(KvStoreTest, TheSiblingThatBeginsWithMostIsCopied) {
  Make(16);
  Cache(Range(0, 4) + Tokens{10, 11, 90, 91});
  Cache(Range(0, 4) + Tokens{10, 11, 12, 92});
  Cache(Range(0, 4) + Tokens{10, 93, 94, 95});
  Moves();
  const MatchResult m = Match(Range(0, 4) + Tokens{10, 11, 12, 13, 14});
  EXPECT_EQ(m.matched_tokens, 7);
  EXPECT_EQ(m.copied_tokens, 3);
  EXPECT_EQ(Match(Range(0, 4) + Tokens{50, 11, 12, 13, 14}).matched_tokens, 4) << "nothing begins with 50";
  EXPECT_EQ(Match(Tokens{0, 1, 7, 8, 9}).matched_tokens, 2) << "the first page has siblings too";
  EXPECT_EQ(Match(Range(0, 5)).matched_tokens, 4) << "nothing is left that need not be computed";
}

TEST_F(KvStoreTest, WithoutAPageForItTheCopyIsNotMatched) {
  Make(3);
  Cache(Range(0, 12));
  const SequenceId other = Match(Range(50, 4), "other").sequence;
  ASSERT_EQ(kv_->Reserve(other, 0, 4), kGranted);  // takes the last cached page
  EXPECT_EQ(kv_->Stats().evictions, 1u);
  const MatchResult m = Match(Range(0, 8));
  EXPECT_EQ(m.matched_tokens, 4) << "the only page left is the one to copy from";
  EXPECT_TRUE(Moves().empty());
  EXPECT_EQ(kv_->CheckInvariants(), "");
}

TEST_F(KvStoreTest, APageThatTwoComputedIsKeptOnce) {
  Make(16);
  const Tokens prompt = Range(0, 13);
  const SequenceId a = Match(prompt).sequence, b = Match(prompt).sequence;
  ASSERT_EQ(kv_->Reserve(a, 0, 13), kGranted);
  ASSERT_EQ(kv_->Reserve(b, 0, 13), kGranted);
  kv_->Publish(a, prompt);
  kv_->Publish(b, prompt);
  kv_->EndStep();
  EXPECT_EQ(Copy(kv_->PageTable(a).first(3)), Copy(kv_->PageTable(b).first(3)));
  EXPECT_NE(kv_->PageTable(a)[3], kv_->PageTable(b)[3]);
  EXPECT_EQ(kv_->Stats().held, 5);
  EXPECT_EQ(kv_->Stats().dedup_pages, 3u);
}

TEST_F(KvStoreTest, EvictsFromTheLeavesAndNeverWhatAHitJustTook) {
  Make(4);
  Cache(Range(0, 16));
  const MatchResult m = Match(Range(0, 8) + Range(90, 8));
  EXPECT_EQ(m.matched_tokens, 8);
  ASSERT_EQ(kv_->Reserve(m.sequence, 8, 16), kGranted);
  EXPECT_EQ(kv_->Stats().evictions, 2u);
  EXPECT_EQ(Match(Range(0, 16)).matched_tokens, 8);
}

TEST_F(KvStoreTest, AFrequentPrefixOutlivesAOneTimeScan) {
  for (const EvictionPolicy policy : {EvictionPolicy::kGreedyDual, EvictionPolicy::kLru}) {
    options_.eviction = policy;
    Make(6);
    for (int i = 0; i < 4; ++i) Cache(Range(0, 9));
    for (int32_t i = 0; i < 3; ++i) Cache(Range(100 * (i + 1), 16));
    EXPECT_EQ(Match(Range(0, 9)).matched_tokens, policy == EvictionPolicy::kLru ? 0 : 8);
    EXPECT_EQ(kv_->CheckInvariants(), "");
  }
}

TEST_F(KvStoreTest, APageThatCameBackIsRememberedToHaveBeenUsed) {
  Make(3);
  Cache(Range(0, 4));
  Cache(Range(100, 12));  // evicts it
  ASSERT_EQ(Match(Range(0, 5)).matched_tokens, 0);
  Make(3);
  Cache(Range(0, 4));
  Cache(Range(100, 12));
  Cache(Range(0, 4));    // it comes back
  Cache(Range(200, 8));  // two that are new, and two more
  Cache(Range(300, 8));
  EXPECT_EQ(Match(Range(0, 5)).matched_tokens, 4);
}

TEST_F(KvStoreTest, FlushDropsWhatNobodyHolds) {
  Make(16);
  Cache(Range(0, 12));
  const SequenceId held = Run(Range(0, 4) + Range(50, 5));
  EXPECT_EQ(kv_->Flush(), 2);
  EXPECT_EQ(Match(Range(0, 12)).matched_tokens, 4);
  kv_->Release(held);
}

TEST_F(KvStoreTest, WithoutPrefixCachingNothingIsSharedOrClaimed) {
  options_.prefix_caching = false;
  Make(16);
  Cache(Range(0, 12));
  EXPECT_EQ(kv_->Stats().cached, 0);
  const SequenceId a = Match(Range(0, 12)).sequence, b = Match(Range(0, 12)).sequence;
  EXPECT_TRUE(kv_->Claim(a, 0, Range(0, 12)));
  EXPECT_TRUE(kv_->Claim(b, 0, Range(0, 12)));
  EXPECT_EQ(kv_->Adopt(b, 0, Range(0, 12)), 0);
}

TEST_F(KvStoreTest, PeekTellsWhatMatchWouldFindAndContinuesWhereItWas) {
  Make(16);
  const Tokens prompt = Range(0, 16);
  PrefixHint hint;
  kv_->Peek("tenant", prompt, &hint);
  EXPECT_EQ(hint.tokens, 0);
  Cache(Range(0, 8));
  kv_->Peek("tenant", prompt, &hint);
  EXPECT_EQ(hint.tokens, 8);
  Cache(prompt);
  const std::string before = kv_->DebugSnapshot();
  kv_->Peek("tenant", prompt, &hint);
  EXPECT_EQ(hint.tokens, 12) << "the last token must be computed";
  EXPECT_EQ(SnapshotDifference(before, kv_->DebugSnapshot()), "");
  kv_->Flush();
  kv_->Peek("tenant", prompt, &hint);
  EXPECT_EQ(hint.tokens, 0);
  // The node's id is in use again, for something else.
  Cache(Range(60, 16));
  hint = {};
  kv_->Peek("tenant", Range(60, 17), &hint);
  ASSERT_EQ(hint.tokens, 16);
  kv_->Flush();
  Cache(Range(30, 16));
  kv_->Peek("tenant", Range(60, 17), &hint);
  EXPECT_EQ(hint.tokens, 0);
}

}  // namespace
}  // namespace dunlin::kv
