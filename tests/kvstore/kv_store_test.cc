#include "kvstore/kv_store.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "kvstore/invariants.h"

namespace dunlin::kv {
namespace {

using Tokens = std::vector<int32_t>;
using enum ReserveOutcome;

Tokens Range(int32_t first, int32_t n) {
  Tokens t(static_cast<size_t>(n));
  std::iota(t.begin(), t.end(), first);
  return t;
}
Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Tokens Copy(std::span<const int32_t> s) { return {s.begin(), s.end()}; }

std::span<const int32_t> First(const Tokens& t, int32_t n) { return std::span(t).first(static_cast<size_t>(n)); }

class KvStoreTest : public ::testing::Test {
 protected:
  void Make(int32_t num_pages, int page_tokens = 4) {
    options_.num_pages = num_pages;
    options_.page_tokens = page_tokens;
    options_.max_sequences = 8;
    options_.max_pages_per_sequence = 16;
    kv_ = KvStore::Create(options_);
  }
  ~KvStoreTest() override {
    if (kv_ == nullptr) return;
    EXPECT_EQ(kv_->CheckInvariants(), "");
  }

  MatchResult Match(const Tokens& tokens, absl::string_view ns = "tenant") { return kv_->Match(ns, tokens, {}); }
  // Computes the rest of `tokens` in one step.
  void Compute(SequenceId seq, int32_t computed, const Tokens& tokens) {
    ASSERT_EQ(kv_->Reserve(seq, computed, static_cast<int32_t>(tokens.size())), kGranted);
    kv_->Publish(seq, tokens);
    kv_->EndStep();
    ASSERT_EQ(kv_->CheckInvariants(), "");
  }
  SequenceId Run(const Tokens& tokens, absl::string_view ns = "tenant") {
    const MatchResult m = Match(tokens, ns);
    Compute(m.sequence, m.matched_tokens, tokens);
    return m.sequence;
  }
  void Cache(const Tokens& tokens, absl::string_view ns = "tenant") { kv_->Release(Run(tokens, ns)); }
  std::vector<PageMove> Moves() {
    std::vector<PageMove> moves;
    kv_->TakeMoves(&moves);
    return moves;
  }
  Tokens Table(SequenceId seq) { return Copy(kv_->PageTable(seq)); }

  KvOptions options_;
  std::unique_ptr<KvStore> kv_;
};

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

// ---- Writing ----

TEST_F(KvStoreTest, AForkCopiesBeforeItWritesAndOnlyWhatIsShared) {
  Make(16);
  const SequenceId a = Run(Range(0, 10));
  const SequenceId b = kv_->Fork(a);
  EXPECT_EQ(Table(a), Table(b));
  Moves();
  ASSERT_EQ(kv_->Reserve(b, 10, 11), kGranted);
  EXPECT_NE(kv_->PageTable(a)[2], kv_->PageTable(b)[2]);
  EXPECT_EQ(Copy(kv_->PageTable(a).first(2)), Copy(kv_->PageTable(b).first(2)));
  const std::vector<PageMove> moves = Moves();
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].from, kv_->PageTable(a)[2]);
  EXPECT_EQ(moves[0].to, kv_->PageTable(b)[2]);
  ASSERT_EQ(kv_->Reserve(a, 10, 11), kGranted);
  EXPECT_TRUE(Moves().empty()) << "it is the only one left that has the page";
}

TEST_F(KvStoreTest, AnIndexedPageIsReplacedBeforeItIsWritten) {
  Make(16);
  const SequenceId a = Run(Range(0, 12));
  const Tokens before = Table(a);
  Moves();
  ASSERT_EQ(kv_->Reserve(a, 4, 12), kGranted);  // from a page's start: nothing to copy
  EXPECT_TRUE(Moves().empty());
  EXPECT_EQ(kv_->PageTable(a)[0], before[0]);
  EXPECT_NE(kv_->PageTable(a)[1], before[1]);
  EXPECT_NE(kv_->PageTable(a)[2], before[2]);
  kv_->EndStep();
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(Match(Range(0, 12)).matched_tokens, 11) << "the old pages are still cached";
}

TEST_F(KvStoreTest, WhatFollowsARewrittenIndexedPageIsGivenUp) {
  Make(16);
  const SequenceId a = Run(Range(0, 12));
  ASSERT_EQ(kv_->Reserve(a, 2, 5), kGranted);
  EXPECT_EQ(kv_->PageTable(a).size(), 2u);
  EXPECT_EQ(kv_->CheckInvariants(), "");
}

TEST_F(KvStoreTest, ADuplicateIsReplacedInEveryForkThatHasIt) {
  Make(16);
  const Tokens prompt = Range(0, 8);
  const SequenceId a = Match(prompt).sequence;
  ASSERT_EQ(kv_->Reserve(a, 0, 8), kGranted);
  kv_->EndStep();
  const SequenceId fork = kv_->Fork(a);
  Cache(prompt);
  kv_->Publish(a, prompt);
  EXPECT_EQ(Table(a), Table(fork));
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(kv_->Stats().held, 2);
  kv_->Release(a);
  kv_->Publish(fork, prompt);
  EXPECT_EQ(kv_->CheckInvariants(), "");
}

TEST_F(KvStoreTest, AReserveThatFailsChangesNothing) {
  Make(6);
  Cache(Range(0, 8));
  const SequenceId a = Run(Range(50, 9));
  const SequenceId b = kv_->Fork(a);
  const std::string before = kv_->DebugSnapshot();
  EXPECT_EQ(kv_->Reserve(b, 9, 24), kFull);  // a copy and three new pages
  EXPECT_EQ(SnapshotDifference(before, kv_->DebugSnapshot()), "");
  kv_->Release(a);
  EXPECT_EQ(kv_->Reserve(b, 9, 24), kGranted);  // no copy any more
}

TEST_F(KvStoreTest, WaitsForPinsWhenTheyAreWhatIsMissing) {
  Make(4);
  const SequenceId a = Run(Range(0, 12));
  const PageId pinned{kv_->PageTable(a)[2]};
  kv_->Pin(pinned);
  kv_->Release(a);
  const SequenceId b = Match(Range(50, 16), "other").sequence;
  const std::string before = kv_->DebugSnapshot();
  EXPECT_EQ(kv_->Reserve(b, 0, 16), kWaitForPins);
  EXPECT_EQ(SnapshotDifference(before, kv_->DebugSnapshot()), "");
  EXPECT_EQ(kv_->Stats().pinned, 1);
  kv_->Unpin(pinned);
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(kv_->Reserve(b, 0, 16), kGranted);
}

TEST_F(KvStoreTest, APinnedPageWhoseParentIsEvictedLeavesTheIndex) {
  Make(3);
  const SequenceId a = Run(Range(0, 12));
  const PageId pinned{kv_->PageTable(a)[2]};
  kv_->Pin(pinned);
  kv_->Release(a);
  const SequenceId b = Match(Range(50, 4), "other").sequence;
  ASSERT_EQ(kv_->Reserve(b, 0, 4), kGranted);  // evicts the second page
  EXPECT_EQ(kv_->CheckInvariants(), "");
  kv_->Unpin(pinned);
  EXPECT_EQ(kv_->Stats().blank, 1);
  EXPECT_EQ(Match(Range(0, 12)).matched_tokens, 4);
}

TEST_F(KvStoreTest, UnpinningALeafKeepsItsAncestorsStronger) {
  Make(4);
  const SequenceId a = Run(Range(0, 12));
  const PageId pinned{kv_->PageTable(a)[2]};
  kv_->Pin(pinned);
  kv_->Release(a);
  Cache(Range(50, 4), "other");
  kv_->Unpin(pinned);
  EXPECT_EQ(kv_->CheckInvariants(), "");
}

// ---- Steps ----

TEST_F(KvStoreTest, OfTwoThatWouldComputeAPageOneWaitsAndAdopts) {
  Make(16);
  const Tokens prompt = Range(0, 14);
  const SequenceId a = Match(prompt).sequence, b = Match(prompt).sequence, c = Match(Range(50, 14)).sequence;
  EXPECT_TRUE(kv_->Claim(a, 0, First(prompt, 8)));
  const std::string before = kv_->DebugSnapshot();
  EXPECT_FALSE(kv_->Claim(b, 0, prompt));
  EXPECT_EQ(SnapshotDifference(before, kv_->DebugSnapshot()), "");
  EXPECT_TRUE(kv_->Claim(c, 0, Range(50, 14)));
  EXPECT_TRUE(kv_->Claim(a, 0, First(prompt, 8))) << "its own claim";
  ASSERT_EQ(kv_->Reserve(a, 0, 8), kGranted);
  kv_->Publish(a, First(prompt, 8));
  kv_->EndStep();
  EXPECT_EQ(kv_->Adopt(b, 0, prompt), 8);
  EXPECT_EQ(Table(a), Table(b));
  EXPECT_TRUE(kv_->Claim(b, 8, prompt));
  EXPECT_FALSE(kv_->Claim(a, 8, prompt)) << "now the other one computes";
  kv_->EndStep();
  EXPECT_TRUE(kv_->Claim(a, 8, prompt)) << "claims end with the step";
}

TEST_F(KvStoreTest, ClaimsOnlyWholePagesFromAPagesStart) {
  Make(16);
  const Tokens prompt = Range(0, 14);
  const SequenceId a = Match(prompt).sequence, b = Match(prompt).sequence;
  EXPECT_TRUE(kv_->Claim(a, 0, First(prompt, 3))) << "completes no page";
  EXPECT_TRUE(kv_->Claim(b, 0, First(prompt, 4)));
  EXPECT_TRUE(kv_->Claim(a, 0, First(prompt, 3)));
  ASSERT_EQ(kv_->Reserve(a, 0, 3), kGranted);
  EXPECT_TRUE(kv_->Claim(a, 3, prompt)) << "a page begun is finished";
  kv_->Release(b);
  EXPECT_EQ(kv_->CheckInvariants(), "");
  const SequenceId c = Match(prompt).sequence;
  EXPECT_TRUE(kv_->Claim(c, 0, prompt)) << "a closed sequence claims nothing";
}

TEST_F(KvStoreTest, AdoptLeavesTheLastTokenAndPagesAlreadyReserved) {
  Make(16);
  const Tokens prompt = Range(0, 8);
  const SequenceId a = Match(prompt).sequence, b = Match(prompt).sequence;
  ASSERT_EQ(kv_->Reserve(b, 0, 4), kGranted);
  Compute(a, 0, prompt);
  EXPECT_EQ(kv_->Adopt(b, 0, prompt), 0) << "a page is reserved";
  kv_->Truncate(b, 0);
  EXPECT_EQ(kv_->Adopt(b, 0, prompt), 4);
  EXPECT_EQ(kv_->Adopt(b, 4, prompt), 4);
}

TEST_F(KvStoreTest, AFailedStepsPagesAreSetAsideUntilAbsolved) {
  Make(8);
  const Tokens prompt = Range(0, 12);
  const SequenceId a = Match(prompt).sequence;
  Compute(a, 0, Range(0, 4));
  ASSERT_EQ(kv_->Reserve(a, 4, 12), kGranted);
  kv_->FailStep();
  kv_->Publish(a, prompt);
  EXPECT_EQ(Match(prompt).matched_tokens, 4) << "never published";
  EXPECT_EQ(kv_->CheckInvariants(), "");
  kv_->Release(a);
  EXPECT_EQ(kv_->Stats().quarantine, 2);
  EXPECT_EQ(kv_->Absolve(), 2);
  EXPECT_EQ(kv_->AvailablePages(), 7);  // one is held by the match above
}

TEST_F(KvStoreTest, WhatWasPublishedBeforeTheStepFailedIsKept) {
  Make(8);
  const Tokens prompt = Range(0, 12);
  const SequenceId a = Match(prompt).sequence;
  ASSERT_EQ(kv_->Reserve(a, 0, 12), kGranted);
  kv_->Publish(a, First(prompt, 9));
  EXPECT_EQ(kv_->CheckInvariants(), "") << "an indexed page is in no write set";
  kv_->FailStep();
  kv_->Release(a);
  EXPECT_EQ(kv_->Stats().quarantine, 1);
  EXPECT_EQ(kv_->Stats().cached, 2);
}

// ---- Events ----

TEST_F(KvStoreTest, EventsReplayToWhatIsPresent) {
  options_.record_events = true;
  Make(4);
  std::vector<uint64_t> replayed;
  const auto replay = [&] {
    CacheEvents events;
    kv_->TakeEvents(&events);
    for (const uint64_t h : events.removed) {
      ASSERT_EQ(std::erase(replayed, h), 1u) << "removed, but not there";
    }
    replayed.insert(replayed.end(), events.added.begin(), events.added.end());
    std::vector<uint64_t> present;
    kv_->ListHashes(&present);
    EXPECT_EQ(CheckEvents(replayed, present), "");
  };
  Cache(Range(0, 12));
  replay();
  EXPECT_EQ(replayed.size(), 3u);
  Cache(Range(50, 12));  // two of the first go
  replay();
  EXPECT_EQ(replayed.size(), 4u);
  kv_->Flush();
  Cache(Range(50, 12));  // goes and comes back
  replay();
  EXPECT_EQ(replayed.size(), 3u);
  Cache(Range(80, 12));
  kv_->Flush();  // comes and goes unseen
  replay();
  EXPECT_TRUE(replayed.empty());
}

TEST_F(KvStoreTest, EventsThatNobodyTakesStayBounded) {
  options_.record_events = true;
  Make(4);
  for (int32_t i = 0; i < 100; ++i) Cache(Range(100 * i, 12));
  CacheEvents events;
  kv_->TakeEvents(&events);
  EXPECT_TRUE(events.removed.empty());
  std::vector<uint64_t> present;
  kv_->ListHashes(&present);
  EXPECT_EQ(CheckEvents(events.added, present), "");
}

}  // namespace
}  // namespace dunlin::kv
