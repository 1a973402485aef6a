#include "kvstore/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <random>
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

// What ages, as a list of (weight, level) in the order in which they go.
std::vector<int32_t> OrderOfEviction(PagePool* pool, const std::vector<std::pair<int, size_t>>& pages) {
  std::vector<PageRef> refs = MustAcquire(pool, pages.size());
  for (size_t i = 0; i < pages.size(); ++i) {
    pool->SetFate(refs[i].page(), PageState::kCached);
    pool->SetWeight(refs[i].page(), pages[i].first);
    pool->SetLevel(refs[i].page(), pages[i].second);
  }
  for (PageRef& r : refs) r.Reset();
  return pool->EvictionOrder();
}

TEST(PagePool, EvictsByWeightThenDepthThenAge) {
  PagePool pool(6);
  EXPECT_EQ(OrderOfEviction(&pool, {{1, 5}, {9, 9}, {1, 7}, {2, 0}, {1, 7}, {15, 63}}),
            (std::vector<int32_t>{2, 4, 0, 3, 1, 5}));
  EXPECT_EQ(pool.CheckInvariants(), "");
}

TEST(PagePool, LruLooksAtAgeAlone) {
  PagePool pool(4, EvictionPolicy::kLru);
  EXPECT_EQ(OrderOfEviction(&pool, {{3, 5}, {0, 9}, {2, 0}, {1, 7}}), (std::vector<int32_t>{0, 1, 2, 3}));
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

// The pool against a model that keeps one record per page and a list of cached pages.
class PoolModel {
 public:
  PoolModel(int32_t num_pages, uint64_t seed)
      : pool_(num_pages), random_(seed), pages_(static_cast<size_t>(num_pages)) {}

  ~PoolModel() {
    refs_.clear();
    for (size_t p = 0; p < pages_.size(); ++p) {
      for (; pages_[p].pins > 0; --pages_[p].pins) pool_.Unpin(static_cast<PageId>(p));
    }
  }

  void RunOne() {
    switch (Below(8)) {
      case 0:
      case 1:
        return Acquire();
      case 2:
        return Share();
      case 3:
      case 4:
        return Drop();
      case 5:
        return SetFate();
      case 6:
        return HoldCached();
      default:
        return Below(20) == 0 ? DiscardOrAbsolve() : (Below(2) == 0 ? PinOrUnpin() : Drop());
    }
  }

  void Compare() {
    ASSERT_EQ(pool_.CheckInvariants(), "");
    std::array<int32_t, 4> count{};
    for (size_t p = 0; p < pages_.size(); ++p) {
      ++count[static_cast<size_t>(pages_[p].state)];
      ASSERT_EQ(pool_.state(static_cast<PageId>(p)), pages_[p].state) << "page " << p;
      ASSERT_EQ(pool_.ref_count(static_cast<PageId>(p)), pages_[p].refs) << "page " << p;
    }
    const KvStats s = pool_.stats();
    ASSERT_EQ((std::array{s.blank, s.held, s.cached, s.quarantine}), count);
    ASSERT_EQ(s.evictions, evictions_);
    ASSERT_EQ(pool_.available(), s.blank + s.cached);
  }

 private:
  struct Page {
    int32_t refs = 0, pins = 0;
    PageState state = PageState::kBlank;
    PageState fate = PageState::kBlank;
  };

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint64_t>(n)); }

  void Acquire() {
    std::vector<PageRef> out(static_cast<size_t>(Below(4)));
    const auto available = static_cast<size_t>(std::count_if(pages_.begin(), pages_.end(), [](const Page& p) {
      return p.state == PageState::kBlank || p.state == PageState::kCached;
    }));
    const auto pins_only = static_cast<size_t>(std::count_if(pages_.begin(), pages_.end(), [](const Page& p) {
      return p.state == PageState::kHeld && p.refs == p.pins && p.fate != PageState::kQuarantine;
    }));
    const ReserveOutcome expected = out.size() <= available               ? ReserveOutcome::kGranted
                                    : out.size() <= available + pins_only ? ReserveOutcome::kWaitForPins
                                                                          : ReserveOutcome::kFull;
    ASSERT_EQ(pool_.Acquire(out), expected);
    if (out.size() > available) return;
    for (PageRef& ref : out) {
      Page& page = pages_[static_cast<size_t>(ref.page())];
      if (page.state == PageState::kCached) {
        // Only when no page was blank, and then the oldest: all have the same weight.
        ASSERT_TRUE(
            std::none_of(pages_.begin(), pages_.end(), [](const Page& p) { return p.state == PageState::kBlank; }));
        ASSERT_EQ(cached_.front(), ref.page());
        cached_.pop_front();
        ++evictions_;
      } else {
        ASSERT_EQ(page.state, PageState::kBlank);
      }
      page = {1, 0, PageState::kHeld, PageState::kBlank};
      refs_.push_back(std::move(ref));
    }
  }
  void Share() {
    if (refs_.empty()) return;
    refs_.push_back(refs_[static_cast<size_t>(Below(static_cast<int32_t>(refs_.size())))].Share());
    ++pages_[static_cast<size_t>(refs_.back().page())].refs;
  }
  void Drop() {
    if (refs_.empty()) return;
    std::swap(refs_[static_cast<size_t>(Below(static_cast<int32_t>(refs_.size())))], refs_.back());
    const PageId id = refs_.back().page();
    refs_.pop_back();
    Unref(id);
  }
  void Unref(PageId id) {
    Page& page = pages_[static_cast<size_t>(id)];
    if (--page.refs > 0) return;
    page.state = page.fate;
    if (page.state == PageState::kCached) cached_.push_back(id);
  }
  void SetFate() {
    if (refs_.empty()) return;
    const PageId id = refs_[static_cast<size_t>(Below(static_cast<int32_t>(refs_.size())))].page();
    constexpr std::array kFates{PageState::kBlank, PageState::kCached, PageState::kCached, PageState::kQuarantine};
    const PageState fate = kFates[static_cast<size_t>(Below(4))];
    pool_.SetFate(id, fate);
    pages_[static_cast<size_t>(id)].fate = fate;
  }
  void HoldCached() {
    if (cached_.empty()) return;
    const PageId id = *std::next(cached_.begin(), Below(static_cast<int32_t>(cached_.size())));
    cached_.remove(id);
    refs_.push_back(pool_.Hold(id));
    pages_[static_cast<size_t>(id)] = {1, 0, PageState::kHeld, PageState::kCached};
  }
  void PinOrUnpin() {
    const PageId id{Below(static_cast<int32_t>(pages_.size()))};
    Page& page = pages_[static_cast<size_t>(id)];
    if (page.pins > 0 && Below(2) == 0) {
      pool_.Unpin(id);
      --page.pins;
      Unref(id);
    } else if (page.state == PageState::kHeld || page.state == PageState::kCached) {
      if (page.state == PageState::kCached) {
        cached_.remove(id);
        page.fate = PageState::kCached;
      }
      pool_.Pin(id);
      page.state = PageState::kHeld;
      ++page.refs;
      ++page.pins;
    }
  }
  void DiscardOrAbsolve() {
    if (Below(2) == 0 && !cached_.empty()) {
      pool_.Discard(cached_.back());
      pages_[static_cast<size_t>(cached_.back())].state = PageState::kBlank;
      cached_.pop_back();
      return;
    }
    int32_t n = 0;
    for (Page& p : pages_) {
      if (p.state != PageState::kQuarantine) continue;
      p.state = PageState::kBlank;
      ++n;
    }
    ASSERT_EQ(pool_.Absolve(), n);
  }

  PagePool pool_;
  std::mt19937_64 random_;
  std::vector<Page> pages_;
  std::list<PageId> cached_;  // oldest first
  std::vector<PageRef> refs_;
  uint64_t evictions_ = 0;
};

TEST(PagePoolProperty, BehavesAsItsModelOver120000RandomOperations) {
  for (const int32_t num_pages : {1, 2, 3, 5, 8, 13}) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(::testing::Message() << "pages " << num_pages << ", seed " << seed);
      PoolModel model(num_pages, seed);
      for (int op = 0; op < 5000; ++op) {
        model.RunOne();
        model.Compare();
        if (HasFatalFailure()) FAIL() << "after operation " << op;
      }
    }
  }
}

}  // namespace
}  // namespace dunlin::kv
