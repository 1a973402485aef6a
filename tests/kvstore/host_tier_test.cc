// Pages that go to the host and come back, seen through the store.
#include "kvstore/host_tier.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "kvstore/kv_store.h"

namespace dunlin::kv {

bool operator==(const PageMove& a, const PageMove& b) { return a.kind == b.kind && a.from == b.from && a.to == b.to; }

namespace {

using Tokens = std::vector<int32_t>;
using Kind = PageMove::Kind;

Tokens Range(int32_t first, int32_t n) {
  Tokens t(static_cast<size_t>(n));
  std::iota(t.begin(), t.end(), first);
  return t;
}

class HostTierTest : public ::testing::Test {
 protected:
  void Make(int32_t num_pages, int32_t host_slots) {
    KvOptions o;
    o.num_pages = num_pages;
    o.page_tokens = 4;
    o.max_sequences = 4;
    o.max_pages_per_sequence = 16;
    o.host_slots = host_slots;
    kv_ = KvStore::Create(o);
  }
  ~HostTierTest() override { EXPECT_EQ(kv_->CheckInvariants(), ""); }

  MatchResult Restore(const Tokens& tokens) { return kv_->Match("", tokens, {.read = true, .restore = true}); }
  int32_t Resident(const Tokens& tokens) {
    const MatchResult m = kv_->Match("", tokens, {});
    kv_->Release(m.sequence);
    return m.matched_tokens - m.copied_tokens;
  }
  void Use(const Tokens& tokens, int times = 1) {
    for (int i = 0; i < times; ++i) {
      const MatchResult m = Restore(tokens);
      const auto n = static_cast<int32_t>(tokens.size());
      ASSERT_EQ(kv_->Reserve(m.sequence, m.matched_tokens, n), ReserveOutcome::kGranted);
      kv_->Publish(m.sequence, tokens);
      kv_->Release(m.sequence);
      kv_->EndStep();
    }
  }
  // A sequence in another namespace takes `pages` pages.
  SequenceId Take(int32_t pages) {
    const SequenceId s = kv_->Match("other", Range(900, 1), {.read = false, .restore = false}).sequence;
    EXPECT_EQ(kv_->Reserve(s, 0, pages * 4), ReserveOutcome::kGranted);
    return s;
  }
  std::vector<PageMove> Moves() {
    std::vector<PageMove> moves;
    kv_->TakeMoves(&moves);
    return moves;
  }

  std::unique_ptr<KvStore> kv_;
};

TEST_F(HostTierTest, APageThatWasFoundAgainIsSavedWhenEvictedAndComesBack) {
  Make(3, 4);
  Use(Range(0, 9), 2);
  Moves();
  kv_->Release(Take(3));
  const std::vector<PageMove> saved = Moves();
  ASSERT_EQ(saved.size(), 2u);
  EXPECT_EQ(saved[0], (PageMove{Kind::kSave, 1, 0})) << "the leaf first";
  EXPECT_EQ(saved[1], (PageMove{Kind::kSave, 0, 1}));
  EXPECT_EQ(kv_->Stats().host_pages, 2);
  EXPECT_EQ(Resident(Range(0, 9)), 0) << "without restore it is not there";
  PrefixHint hint;
  kv_->Peek("", Range(0, 9), &hint);
  EXPECT_EQ(hint.tokens, 8);

  const MatchResult m = Restore(Range(0, 9));
  EXPECT_EQ(m.matched_tokens, 8);
  EXPECT_EQ(m.restored_tokens, 8);
  const std::span<const int32_t> table = kv_->PageTable(m.sequence);
  EXPECT_EQ(Moves(), (std::vector<PageMove>{{Kind::kRestore, 1, table[0]}, {Kind::kRestore, 0, table[1]}}));
  EXPECT_EQ(kv_->Stats().host_restores, 2u);
  EXPECT_EQ(Resident(Range(0, 9)), 8) << "for others too";
}

TEST_F(HostTierTest, APageThatNobodyFoundAgainIsDropped) {
  Make(3, 4);
  Use(Range(0, 9));
  Moves();
  kv_->Release(Take(3));
  EXPECT_TRUE(Moves().empty());
  EXPECT_EQ(kv_->Stats().host_pages, 0);
}

TEST_F(HostTierTest, ARestoredPageIsNotSavedASecondTime) {
  Make(3, 4);
  Use(Range(0, 9), 2);
  kv_->Release(Take(3));
  kv_->Release(Restore(Range(0, 9)).sequence);
  kv_->EndStep();
  Moves();
  kv_->Release(Take(3));
  EXPECT_TRUE(Moves().empty()) << "its record is still there";
  EXPECT_EQ(Restore(Range(0, 9)).restored_tokens, 8);
}

TEST_F(HostTierTest, AComputedPageTakesThePlaceOfItsRecord) {
  Make(3, 4);
  Use(Range(0, 9), 2);
  kv_->Release(Take(3));
  const MatchResult m = kv_->Match("", Range(0, 9), {});
  EXPECT_EQ(m.matched_tokens, 0);
  ASSERT_EQ(kv_->Reserve(m.sequence, 0, 9), ReserveOutcome::kGranted);
  kv_->Publish(m.sequence, Range(0, 9));
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(Resident(Range(0, 9)), 8);
  EXPECT_EQ(kv_->Stats().dedup_pages, 0u);
  EXPECT_EQ(kv_->Stats().host_pages, 2);
}

TEST_F(HostTierTest, TheWeakestRecordGivesWayAndASlotIsReadBeforeItIsWritten) {
  Make(2, 1);
  Use(Range(0, 5), 2);    // one page, found once
  Use(Range(100, 5), 4);  // evicts it, to the slot
  ASSERT_EQ(kv_->Stats().host_pages, 1);
  Moves();
  kv_->Release(Take(2));  // the stronger one takes the slot
  EXPECT_EQ(Moves().size(), 1u);
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(Restore(Range(0, 5)).restored_tokens, 0);
  EXPECT_EQ(Restore(Range(100, 5)).restored_tokens, 4);
}

TEST_F(HostTierTest, MakingRoomForARestoreDoesNotDropWhatIsRestored) {
  Make(3, 2);
  Use(Range(0, 9), 2);
  Use(Range(100, 9), 3);  // evicts the first two pages to both slots
  ASSERT_EQ(kv_->Stats().host_pages, 2);
  Moves();
  const MatchResult m = Restore(Range(0, 9));
  EXPECT_EQ(m.restored_tokens, 8);
  for (const PageMove& move : Moves()) EXPECT_EQ(move.kind, Kind::kRestore) << "no slot was free for a save";
}

TEST_F(HostTierTest, WithoutPagesNothingIsRestored) {
  Make(2, 2);
  Use(Range(0, 8), 2);
  const SequenceId s = Take(2);
  Moves();
  const MatchResult m = Restore(Range(0, 9));
  EXPECT_EQ(m.matched_tokens, 0);
  EXPECT_TRUE(Moves().empty());
  kv_->Release(s);
  EXPECT_EQ(Restore(Range(0, 9)).restored_tokens, 8);
}

TEST_F(HostTierTest, AFailedRestoreIsForgottenWithAllThatFollows) {
  Make(4, 4);
  Use(Range(0, 13), 2);
  kv_->Release(Take(4));
  const MatchResult m = Restore(Range(0, 13));
  ASSERT_EQ(m.restored_tokens, 12);
  const MatchResult other = kv_->Match("", Range(0, 13), {});  // shares them in the same step
  ASSERT_EQ(other.matched_tokens, 12);
  const PageId broken{kv_->PageTable(m.sequence)[1]};
  EXPECT_EQ(kv_->FailRestore(m.sequence, broken), 4);
  EXPECT_EQ(kv_->PageTable(m.sequence).size(), 1u);
  EXPECT_EQ(kv_->CheckInvariants(), "");
  EXPECT_EQ(kv_->FailRestore(other.sequence, broken), 4);
  EXPECT_EQ(kv_->PageTable(other.sequence).size(), 1u);
  EXPECT_EQ(Resident(Range(0, 13)), 4);
  PrefixHint hint;
  kv_->Peek("", Range(0, 13), &hint);
  EXPECT_EQ(hint.tokens, 4) << "the records are gone too";
  EXPECT_EQ(kv_->FailRestore(m.sequence, broken), 4) << "it has nothing to do with that page any more";
}

TEST_F(HostTierTest, ASequenceThatKeepsAFailedPageNeverPublishesBehindIt) {
  Make(6, 4);
  Use(Range(0, 9), 2);
  kv_->Release(Take(6));
  const MatchResult m = Restore(Range(0, 9));
  const MatchResult other = kv_->Match("", Range(0, 20), {});
  ASSERT_EQ(other.matched_tokens, 8);
  EXPECT_EQ(kv_->FailRestore(m.sequence, PageId{kv_->PageTable(m.sequence)[0]}), 0);
  ASSERT_EQ(kv_->Reserve(other.sequence, 8, 13), ReserveOutcome::kGranted);
  kv_->Publish(other.sequence, Range(0, 13));
  EXPECT_EQ(Resident(Range(0, 14)), 0);
}

TEST_F(HostTierTest, NothingIsCopiedFromAPageThatIsStillOnItsWay) {
  Make(4, 4);
  Use(Range(0, 9), 2);
  kv_->Release(Take(4));
  const MatchResult first = Restore(Range(0, 9));
  ASSERT_EQ(first.restored_tokens, 8);
  const MatchResult m = kv_->Match("", Range(0, 7), {});
  EXPECT_EQ(m.matched_tokens, 4) << "the second page could fail to come";
  kv_->Release(m.sequence);
  kv_->EndStep();
  EXPECT_EQ(kv_->Match("", Range(0, 7), {}).matched_tokens, 6);
}

TEST_F(HostTierTest, FlushDropsEveryRecord) {
  Make(3, 4);
  Use(Range(0, 9), 2);
  kv_->Release(Take(3));
  kv_->Release(Restore(Range(0, 9)).sequence);
  EXPECT_EQ(kv_->Flush(), 2);
  EXPECT_EQ(kv_->Stats().host_pages, 0);
  EXPECT_EQ(Restore(Range(0, 9)).matched_tokens, 0);
}

TEST(HostTier, GivesUpNothingForLessAndNothingThatIsGuarded) {
  HostTier tier(2, EvictionPolicy::kGreedyDual);
  tier.Put(tier.FreeSlot(), 10, 3, 0);
  tier.Put(tier.FreeSlot(), 11, 5, 0);
  EXPECT_EQ(tier.FreeSlot(), -1);
  EXPECT_EQ(tier.Victim(2, 1), -1);
  EXPECT_EQ(tier.Victim(3, 1), 0);
  tier.Guard(0, 1);
  EXPECT_EQ(tier.Victim(9, 1), -1);
  EXPECT_EQ(tier.Victim(9, 2), 0);
  tier.Drop(0, /*evicted=*/true);
  EXPECT_EQ(tier.Victim(1, 2), -1) << "5 is still more than 3 + 1";
  EXPECT_EQ(tier.Victim(2, 2), 1) << "the clock went on to 3";
  EXPECT_EQ(tier.CheckInvariants(), "");
}

}  // namespace
}  // namespace dunlin::kv
