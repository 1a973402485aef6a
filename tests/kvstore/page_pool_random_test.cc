// The page pool against a model that keeps one record per page and a list of cached pages.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <list>
#include <random>
#include <utility>
#include <vector>

#include "kvstore/page_pool.h"

namespace dunlin::kv {
namespace {

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
