// Writing, steps and events of a KvStore; what it shares: kv_store_test.cc.
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

TEST_F(KvStoreTest, WaitsForThePinOfAPageThatItWouldHaveToCopy) {
  Make(2);
  const SequenceId a = Run(Range(0, 6));
  const PageId page{kv_->PageTable(a)[1]};
  kv_->Pin(page);
  EXPECT_EQ(kv_->Reserve(a, 6, 7), kWaitForPins);
  kv_->Unpin(page);
  EXPECT_EQ(kv_->Reserve(a, 6, 7), kGranted);
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

TEST_F(KvStoreTest, WhatAnEndedStepWroteCanStillBeDistrustedAndWithItWhatFollows) {
  Make(8);
  const Tokens prompt = Range(0, 15);
  const SequenceId a = Match(prompt).sequence;
  Compute(a, 0, Range(0, 12));  // published, and its step has ended
  ASSERT_EQ(kv_->Reserve(a, 12, 15), kGranted);
  kv_->EndStep();
  const SequenceId b = Match(prompt).sequence;
  kv_->Distrust(a, 6, 15);  // pages 1, 2 and 3
  EXPECT_EQ(kv_->CheckInvariants(), "");
  kv_->Publish(a, First(prompt, 12));
  EXPECT_EQ(Match(prompt).matched_tokens, 4) << "neither is it published again";
  kv_->Release(a);
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(kv_->Stats().quarantine, 1) << "the others are held by who shares them";
  kv_->Release(b);
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(kv_->Stats().quarantine, 3);
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
