#include "kvstore/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kvstore/page_table.h"

namespace dunlin::kv {
namespace {

std::vector<PageRef> MustAcquire(PagePool* pool, size_t n) {
  std::vector<PageRef> refs(n);
  EXPECT_EQ(pool->Acquire(refs), ReserveOutcome::kGranted);
  return refs;
}

TEST(PagePool, AcquireTakesAllOrNothing) {
  PagePool pool(4);
  std::vector<PageRef> three = MustAcquire(&pool, 3);
  std::array<PageRef, 2> two;
  EXPECT_EQ(pool.Acquire(two), ReserveOutcome::kFull);
  EXPECT_FALSE(two[0].held());
  EXPECT_EQ(pool.stats().held, 3);
  EXPECT_EQ(pool.available(), 1);
  EXPECT_EQ(pool.CheckInvariants(), "");
}

TEST(PagePool, ASharedPageStaysUntilItsLastReferenceGoes) {
  PagePool pool(2);
  std::vector<PageRef> one = MustAcquire(&pool, 1);
  PageRef second = one[0].Share();
  EXPECT_EQ(pool.ref_count(second.page()), 2);
  one.clear();
  EXPECT_EQ(pool.state(second.page()), PageState::kHeld);
  second.Reset();
  EXPECT_EQ(pool.stats().blank, 2);
}

TEST(PagePool, MovingAHandleMovesTheReference) {
  PagePool pool(2);
  std::vector<PageRef> refs = MustAcquire(&pool, 2);
  refs[0] = std::move(refs[1]);  // gives up the page it had
  EXPECT_FALSE(refs[1].held());
  EXPECT_EQ(pool.stats().held, 1);
}

TEST(PagePool, EvictsTheLongestUnusedCachedPageAfterTheBlankOnes) {
  PagePool pool(3);
  std::vector<PageRef> refs = MustAcquire(&pool, 3);
  const PageId first = refs[1].page(), second = refs[0].page();
  for (PageRef& r : refs) pool.SetFate(r.page(), PageState::kCached);
  pool.SetFate(refs[2].page(), PageState::kBlank);
  refs[1].Reset();
  refs[0].Reset();
  refs[2].Reset();
  EXPECT_EQ(pool.stats().cached, 2);
  EXPECT_EQ(pool.available(), 3);
  std::vector<PageRef> two = MustAcquire(&pool, 2);
  EXPECT_EQ(two[1].page(), first);
  EXPECT_EQ(pool.stats().evictions, 1u);
  PageRef hit = pool.Hold(second);
  EXPECT_EQ(pool.available(), 0);
  hit.Reset();  // it stays worth keeping
  EXPECT_EQ(pool.state(second), PageState::kCached);
  pool.Discard(second);
  EXPECT_EQ(pool.state(second), PageState::kBlank);
  EXPECT_EQ(pool.CheckInvariants(), "");
}

TEST(PagePool, AQuarantinedPageIsNotHandedOutUntilAbsolved) {
  PagePool pool(1);
  std::vector<PageRef> refs = MustAcquire(&pool, 1);
  pool.SetFate(refs[0].page(), PageState::kQuarantine);
  refs[0].Reset();
  EXPECT_EQ(pool.available(), 0);
  EXPECT_EQ(pool.Acquire(refs), ReserveOutcome::kFull);
  EXPECT_EQ(pool.Absolve(), 1);
  EXPECT_EQ(pool.Acquire(refs), ReserveOutcome::kGranted);
}

TEST(PagePoolDeathTest, AHeldPageAtDestructionIsFatal) {
  EXPECT_DEATH(
      {
        auto pool = std::make_unique<PagePool>(1);
        std::vector<PageRef> leaked = MustAcquire(pool.get(), 1);
        pool.reset();
      },
      "held");
}

// The type forbids a double release, so this one goes behind its back: a byte-wise copy of a handle whose page was
// given up and handed out again.
void ReleaseStaleHandle() {
  PagePool pool(1);
  std::vector<PageRef> refs = MustAcquire(&pool, 1);
  std::array<unsigned char, sizeof(PageRef)> bytes;
  std::copy_n(reinterpret_cast<const unsigned char*>(&refs[0]), sizeof(PageRef), bytes.data());
  refs[0].Reset();
  std::vector<PageRef> next = MustAcquire(&pool, 1);
  std::copy_n(bytes.data(), sizeof(PageRef), reinterpret_cast<unsigned char*>(&refs[0]));
  refs[0].Reset();
}

TEST(PagePoolDeathTest, AHandleThatOutlivedItsPageIsFound) { EXPECT_DEATH(ReleaseStaleHandle(), "stale handle"); }

TEST(PagePool, WaitsForPinsOnlyWhenThosePagesWouldBeEnough) {
  PagePool pool(4);
  std::vector<PageRef> refs = MustAcquire(&pool, 4);
  pool.Pin(refs[0].page());
  pool.Pin(refs[1].page());
  pool.Pin(refs[1].page());
  std::vector<PageRef> one(1), two(2);
  EXPECT_EQ(pool.Acquire(one), ReserveOutcome::kFull) << "tables hold the pinned pages too";
  const PageId first = refs[0].page(), second = refs[1].page();
  refs[0].Reset();
  EXPECT_EQ(pool.Acquire(one), ReserveOutcome::kWaitForPins);
  EXPECT_EQ(pool.Acquire(two), ReserveOutcome::kFull);
  refs[1].Reset();
  EXPECT_EQ(pool.Acquire(two), ReserveOutcome::kWaitForPins);
  EXPECT_EQ(pool.stats().pinned, 2);
  pool.Unpin(second);
  EXPECT_EQ(pool.Acquire(two), ReserveOutcome::kWaitForPins) << "pinned twice";
  pool.Unpin(second);
  EXPECT_EQ(pool.Acquire(one), ReserveOutcome::kGranted);
  pool.SetFate(first, PageState::kQuarantine);
  EXPECT_EQ(pool.Acquire(two), ReserveOutcome::kFull) << "it will not be handed out when its pin goes";
  pool.Unpin(first);
  EXPECT_EQ(pool.state(first), PageState::kQuarantine);
  EXPECT_EQ(pool.CheckInvariants(), "");
}

TEST(PagePoolDeathTest, OnlyAPageInUseIsPinnedAndOnlyAPinIsTakenBack) {
  PagePool pool(2);
  std::vector<PageRef> refs = MustAcquire(&pool, 1);
  EXPECT_DEATH(pool.Unpin(refs[0].page()), "pins");
  EXPECT_DEATH(pool.Pin(PageId{1}), "taking page 1");
  EXPECT_DEATH(pool.Pin(PageId{2}), "page 2");
}

// Pages of these weights become cached in this order; the order in which they would go.
std::vector<int32_t> OrderOfEviction(PagePool* pool, const std::vector<int>& weights) {
  std::vector<PageRef> refs = MustAcquire(pool, weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    pool->SetFate(refs[i].page(), PageState::kCached);
    pool->SetWeight(refs[i].page(), weights[i]);
  }
  for (PageRef& r : refs) r.Reset();
  return pool->EvictionOrder();
}

TEST(PagePool, EvictsByWeightThenAge) {
  PagePool pool(6);
  EXPECT_EQ(OrderOfEviction(&pool, {2, 9, 1, 2, 0, 15}), (std::vector<int32_t>{4, 2, 0, 3, 1, 5}));
  EXPECT_EQ(pool.CheckInvariants(), "");
}

TEST(PagePool, LruLooksAtAgeAlone) {
  PagePool pool(4, EvictionPolicy::kLru);
  EXPECT_EQ(OrderOfEviction(&pool, {3, 0, 15, 1}), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(pool.CheckInvariants(), "");
}

// Two heavy pages and a stream of light ones: each generation of light pages takes the clock one further, until the
// heavy ones are what is weakest.
TEST(PagePool, AHeavyPageSinksWhenOthersComeAndGo) {
  PagePool pool(3);
  std::vector<PageRef> refs = MustAcquire(&pool, 3);
  const PageId heavy = refs[0].page();
  int rounds = 0;
  for (PageRef& r : refs) {
    pool.SetFate(r.page(), PageState::kCached);
    pool.SetWeight(r.page(), r.page() == heavy ? 5 : 1);
    r.Reset();
  }
  while (pool.node(heavy) == -1 && pool.state(heavy) == PageState::kCached && rounds < 100) {
    std::vector<PageRef> light = MustAcquire(&pool, 1);
    pool.SetFate(light[0].page(), PageState::kCached);
    pool.SetWeight(light[0].page(), 1);
    if (light[0].page() == heavy) break;
    ++rounds;
    ASSERT_EQ(pool.CheckInvariants(), "");
  }
  EXPECT_GE(rounds, 5);
  EXPECT_LE(rounds, 12);
}

TEST(PagePool, TellsTheListenerBeforeACachedPageIsHandedOut) {
  struct Listener final : EvictionListener {
    void OnEvict(PageId page) override {
      told.push_back(static_cast<int32_t>(page));
      EXPECT_EQ(pool->state(page), PageState::kCached);
      pool->SetNode(page, -1);
    }
    PagePool* pool = nullptr;
    std::vector<int32_t> told;
  } listener;
  PagePool pool(2, EvictionPolicy::kGreedyDual, &listener);
  listener.pool = &pool;
  std::vector<PageRef> refs = MustAcquire(&pool, 2);
  for (PageRef& r : refs) {
    pool.SetNode(r.page(), 7);
    pool.SetFate(r.page(), PageState::kCached);
  }
  refs.clear();
  std::vector<PageRef> fresh = MustAcquire(&pool, 1);
  EXPECT_EQ(listener.told, (std::vector<int32_t>{0}));
  EXPECT_EQ(pool.node(fresh[0].page()), -1);
}

TEST(PageTable, GivesUpItsLastPageFirstSoThatEvictionStartsAtTheEnd) {
  PagePool pool(3);
  PageTable table;
  table.Open(3);
  for (PageRef& r : MustAcquire(&pool, 3)) table.Append(std::move(r));
  for (const int32_t p : table.ids()) pool.SetFate(static_cast<PageId>(p), PageState::kCached);
  table.Clear();
  EXPECT_EQ(pool.EvictionOrder(), (std::vector<int32_t>{2, 1, 0}));
}

TEST(PageTable, ReplacingAPageGivesUpTheOneThatWasThere) {
  PagePool pool(3);
  PageTable table;
  table.Open(2);
  for (PageRef& r : MustAcquire(&pool, 2)) table.Append(std::move(r));
  table.Replace(0, std::move(MustAcquire(&pool, 1)[0]));
  EXPECT_EQ(std::vector<int32_t>(table.ids().begin(), table.ids().end()), (std::vector<int32_t>{2, 1}));
  EXPECT_EQ(pool.state(PageId{0}), PageState::kBlank);
  table.Shrink(1);
  EXPECT_EQ(table.size(), 1);
  table.Clear();
  EXPECT_EQ(pool.stats().blank, 3);
}

}  // namespace
}  // namespace dunlin::kv
