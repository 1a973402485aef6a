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
  EXPECT_TRUE(pool->Acquire(refs));
  return refs;
}

TEST(PagePool, AcquireTakesAllOrNothing) {
  PagePool pool(4);
  std::vector<PageRef> three = MustAcquire(&pool, 3);
  std::array<PageRef, 2> two;
  EXPECT_FALSE(pool.Acquire(two));
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
  PageRef hit = pool.AcquireCached(second);
  EXPECT_EQ(pool.available(), 0);
  hit.Reset();  // it stays worth keeping
  EXPECT_EQ(pool.state(second), PageState::kCached);
  EXPECT_EQ(pool.Flush(), 1);
  EXPECT_EQ(pool.state(second), PageState::kBlank);
  EXPECT_EQ(pool.CheckInvariants(), "");
}

TEST(PagePool, AQuarantinedPageIsNotHandedOutUntilAbsolved) {
  PagePool pool(1);
  std::vector<PageRef> refs = MustAcquire(&pool, 1);
  pool.SetFate(refs[0].page(), PageState::kQuarantine);
  refs[0].Reset();
  EXPECT_EQ(pool.available(), 0);
  EXPECT_FALSE(pool.Acquire(refs));
  EXPECT_EQ(pool.Flush(), 0);
  EXPECT_EQ(pool.Absolve(), 1);
  EXPECT_TRUE(pool.Acquire(refs));
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

TEST(PageTable, AFailedGrowthLeavesTheTableAsItWas) {
  PagePool pool(3);
  PageTable a, b;
  a.Open(3);
  b.Open(3);
  ASSERT_TRUE(a.Grow(&pool, 2));
  const std::vector<int32_t> before(a.ids().begin(), a.ids().end());
  ASSERT_TRUE(b.Grow(&pool, 1));
  EXPECT_FALSE(a.Grow(&pool, 3));
  EXPECT_EQ(std::vector<int32_t>(a.ids().begin(), a.ids().end()), before);
  EXPECT_TRUE(a.Grow(&pool, 1)) << "growing to less is nothing to do";
  EXPECT_EQ(a.size(), 2);
  b.Clear();
  EXPECT_TRUE(a.Grow(&pool, 3));
  a.Clear();
  EXPECT_EQ(pool.stats().blank, 3);
}

TEST(PageTable, GivesUpItsLastPageFirstSoThatEvictionStartsAtTheEnd) {
  PagePool pool(3);
  PageTable table;
  table.Open(3);
  ASSERT_TRUE(table.Grow(&pool, 3));
  const std::vector<int32_t> pages(table.ids().begin(), table.ids().end());
  for (const int32_t p : pages) pool.SetFate(static_cast<PageId>(p), PageState::kCached);
  table.Clear();
  std::vector<PageRef> evicted = MustAcquire(&pool, 1);
  EXPECT_EQ(static_cast<int32_t>(evicted[0].page()), pages[2]);
}

// The pool against a model that keeps one record per page and a list of cached pages.
class PoolModel {
 public:
  PoolModel(int32_t num_pages, uint64_t seed)
      : pool_(num_pages), random_(seed), pages_(static_cast<size_t>(num_pages)) {}

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
        return AcquireCached();
      default:
        return Below(20) == 0 ? FlushOrAbsolve() : Drop();
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
    int32_t refs = 0;
    PageState state = PageState::kBlank;
    PageState fate = PageState::kBlank;
  };

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint64_t>(n)); }

  void Acquire() {
    std::vector<PageRef> out(static_cast<size_t>(Below(4)));
    const auto available = static_cast<size_t>(std::count_if(pages_.begin(), pages_.end(), [](const Page& p) {
      return p.state == PageState::kBlank || p.state == PageState::kCached;
    }));
    ASSERT_EQ(pool_.Acquire(out), out.size() <= available);
    if (out.size() > available) return;
    for (PageRef& ref : out) {
      Page& page = pages_[static_cast<size_t>(ref.page())];
      if (page.state == PageState::kCached) {
        // Only when no page was blank, and then the oldest.
        ASSERT_TRUE(
            std::none_of(pages_.begin(), pages_.end(), [](const Page& p) { return p.state == PageState::kBlank; }));
        ASSERT_EQ(cached_.front(), ref.page());
        cached_.pop_front();
        ++evictions_;
      } else {
        ASSERT_EQ(page.state, PageState::kBlank);
      }
      page = {1, PageState::kHeld, PageState::kBlank};
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
    Page& page = pages_[static_cast<size_t>(refs_.back().page())];
    const PageId id = refs_.back().page();
    refs_.pop_back();
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
  void AcquireCached() {
    if (cached_.empty()) return;
    const PageId id = *std::next(cached_.begin(), Below(static_cast<int32_t>(cached_.size())));
    cached_.remove(id);
    refs_.push_back(pool_.AcquireCached(id));
    pages_[static_cast<size_t>(id)] = {1, PageState::kHeld, PageState::kCached};
  }
  void FlushOrAbsolve() {
    const PageState from = Below(2) == 0 ? PageState::kCached : PageState::kQuarantine;
    int32_t n = 0;
    for (Page& p : pages_) {
      if (p.state != from) continue;
      p.state = PageState::kBlank;
      ++n;
    }
    if (from == PageState::kCached) cached_.clear();
    ASSERT_EQ(from == PageState::kCached ? pool_.Flush() : pool_.Absolve(), n);
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
