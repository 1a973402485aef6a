#include "kvstore/page_pool.h"

#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvstore/page_table.h"

namespace dunlin::kv {

PageRef& PageRef::operator=(PageRef&& o) noexcept {
  if (this != &o) {
    Reset();
    pool_ = std::exchange(o.pool_, nullptr);
    page_ = o.page_;
    generation_ = o.generation_;
  }
  return *this;
}

PageRef PageRef::Share() const {
  CHECK(valid());
  pool_->AddReference(*this);
  return PageRef(pool_, page_, generation_);
}

void PageRef::Reset() {
  if (pool_ == nullptr) return;
  pool_->DropReference(*this);
  pool_ = nullptr;
}

PagePool::PagePool(int32_t num_pages) {
  CHECK_GT(num_pages, 0);
  const auto n = static_cast<size_t>(num_pages);
  state_.assign(n, PageState::kBlank);
  fate_.assign(n, Fate::kBlank);
  references_.assign(n, 0);
  generation_.assign(n, 0);
  previous_.assign(n, kNone);
  next_.assign(n, kNone);
  blank_stack_.reserve(n);
  for (int32_t i = num_pages - 1; i >= 0; --i) blank_stack_.push_back(i);  // page 0 on top
  counts_[static_cast<size_t>(PageState::kBlank)] = num_pages;
}

PagePool::~PagePool() { CHECK_EQ(count(PageState::kHeld), 0) << "a page outlives its pool"; }

size_t PagePool::Index(PageId page) const {
  const auto i = static_cast<int32_t>(page);
  CHECK(i >= 0 && i < num_pages()) << "page " << i << " of " << num_pages();
  return static_cast<size_t>(i);
}

void PagePool::Transition(size_t page, PageState to) {
  const PageState from = state_[page];
  const auto id = static_cast<int32_t>(page);
  switch (from) {
    case PageState::kBlank:
      CHECK_EQ(to, PageState::kHeld);
      CHECK_EQ(blank_stack_.back(), id);
      blank_stack_.pop_back();
      break;
    case PageState::kHeld:
      CHECK_NE(to, PageState::kHeld);
      CHECK_EQ(references_[page], 0);
      ++generation_[page];
      fate_[page] = Fate::kBlank;
      break;
    case PageState::kCached: {
      CHECK(to == PageState::kHeld || to == PageState::kBlank) << "page " << id;
      const int32_t before = previous_[page], after = next_[page];
      (before == kNone ? queue_head_ : next_[static_cast<size_t>(before)]) = after;
      (after == kNone ? queue_tail_ : previous_[static_cast<size_t>(after)]) = before;
      previous_[page] = next_[page] = kNone;
      break;
    }
    case PageState::kQuarantine:
      CHECK_EQ(to, PageState::kBlank);
      break;
  }
  if (to == PageState::kBlank) blank_stack_.push_back(id);
  if (to == PageState::kCached) {
    previous_[page] = queue_tail_;
    (queue_tail_ == kNone ? queue_head_ : next_[static_cast<size_t>(queue_tail_)]) = id;
    queue_tail_ = id;
  }
  state_[page] = to;
  --counts_[static_cast<size_t>(from)];
  ++counts_[static_cast<size_t>(to)];
}

PageRef PagePool::Hold(size_t page) {
  Transition(page, PageState::kHeld);
  references_[page] = 1;
  return PageRef(this, PageId{static_cast<int32_t>(page)}, generation_[page]);
}

bool PagePool::Acquire(int32_t n, PageTable* table) {
  CHECK_GE(n, 0);
  if (n > available()) return false;
  for (int32_t i = 0; i < n; ++i) {
    if (blank_stack_.empty()) {
      Transition(static_cast<size_t>(queue_head_), PageState::kBlank);
      ++evictions_;
    }
    table->Append(Hold(static_cast<size_t>(blank_stack_.back())));
  }
  return true;
}

void PagePool::CheckHandle(const PageRef& ref) const {
  CHECK_EQ(ref.pool_, this);
  const size_t page = Index(ref.page_);
  CHECK_EQ(state_[page], PageState::kHeld) << "page " << page;
  CHECK_EQ(generation_[page], ref.generation_) << "stale handle of page " << page;
  CHECK_GT(references_[page], 0) << "page " << page;
}

void PagePool::AddReference(const PageRef& ref) {
  CheckHandle(ref);
  ++references_[Index(ref.page_)];
}

void PagePool::DropReference(const PageRef& ref) {
  CheckHandle(ref);
  const size_t page = Index(ref.page_);
  if (--references_[page] > 0) return;
  const Fate fate = fate_[page];
  Transition(page, fate == Fate::kCache        ? PageState::kCached
                   : fate == Fate::kQuarantine ? PageState::kQuarantine
                                               : PageState::kBlank);
}

void PagePool::KeepWhenReleased(const PageRef& ref) {
  CheckHandle(ref);
  Fate& fate = fate_[Index(ref.page_)];
  if (fate == Fate::kBlank) fate = Fate::kCache;
}

void PagePool::QuarantineWhenReleased(const PageRef& ref) {
  CheckHandle(ref);
  fate_[Index(ref.page_)] = Fate::kQuarantine;
}

PageRef PagePool::TakeCached(PageId page) {
  const size_t i = Index(page);
  CHECK_EQ(state_[i], PageState::kCached) << "page " << i;
  PageRef ref = Hold(i);
  fate_[i] = Fate::kCache;
  return ref;
}

int32_t PagePool::Scrub() {
  int32_t n = 0;
  for (size_t i = 0; i < state_.size(); ++i) {
    if (state_[i] != PageState::kQuarantine) continue;
    Transition(i, PageState::kBlank);
    ++n;
  }
  return n;
}

int32_t PagePool::DropCached() {
  int32_t n = 0;
  for (; queue_head_ != kNone; ++n) Transition(static_cast<size_t>(queue_head_), PageState::kBlank);
  return n;
}

std::string PagePool::CheckStack() const {
  std::vector<bool> seen(state_.size(), false);
  for (const int32_t id : blank_stack_) {
    if (id < 0 || id >= num_pages()) return absl::StrCat("blank stack: holds page ", id, " of ", num_pages());
    const auto i = static_cast<size_t>(id);
    if (seen[i]) return absl::StrCat("blank stack: holds page ", id, " twice");
    seen[i] = true;
    if (state_[i] != PageState::kBlank) return absl::StrCat("blank stack: page ", id, " is in another state");
  }
  return "";
}

std::string PagePool::CheckQueue() const {
  int32_t length = 0, before = kNone;
  for (int32_t id = queue_head_; id != kNone; id = next_[static_cast<size_t>(id)]) {
    const auto i = static_cast<size_t>(id);
    if (++length > num_pages()) return "eviction queue: has a cycle";
    if (previous_[i] != before) return absl::StrCat("eviction queue: page ", id, " links back to ", previous_[i]);
    if (state_[i] != PageState::kCached) return absl::StrCat("eviction queue: page ", id, " is not cached");
    before = id;
  }
  if (queue_tail_ != before) return absl::StrCat("eviction queue: tail is ", queue_tail_, ", last is ", before);
  if (length != count(PageState::kCached)) {
    return absl::StrCat("conservation: ", length, " pages queued, ", count(PageState::kCached), " counted as cached");
  }
  return "";
}

std::string PagePool::CheckInvariants() const {
  std::array<int32_t, kNumPageStates> found{};
  for (size_t i = 0; i < state_.size(); ++i) {
    ++found[static_cast<size_t>(state_[i])];
    if ((references_[i] > 0) != (state_[i] == PageState::kHeld)) {
      return absl::StrCat("references: page ", i, " has ", references_[i], " in state ", static_cast<int>(state_[i]));
    }
    if (state_[i] != PageState::kHeld && fate_[i] != Fate::kBlank) {
      return absl::StrCat("fate: page ", i, " keeps one while not held");
    }
  }
  for (size_t s = 0; s < found.size(); ++s) {
    if (found[s] != counts_[s]) {
      return absl::StrCat("conservation: ", found[s], " pages in state ", s, ", ", counts_[s], " counted");
    }
  }
  if (blank_stack_.size() != static_cast<size_t>(count(PageState::kBlank))) {
    return absl::StrCat("conservation: ", blank_stack_.size(), " pages stacked, ", count(PageState::kBlank), " blank");
  }
  if (std::string why = CheckStack(); !why.empty()) return why;
  return CheckQueue();
}

std::string PagePool::DebugSnapshot() const {
  std::string out;
  for (size_t i = 0; i < state_.size(); ++i) {
    absl::StrAppend(&out, static_cast<int>(state_[i]), ",", static_cast<int>(fate_[i]), ",", references_[i], ",",
                    generation_[i], ",", previous_[i], ",", next_[i], ";");
  }
  for (const int32_t id : blank_stack_) absl::StrAppend(&out, id, " ");
  absl::StrAppend(&out, "|", queue_head_, ",", queue_tail_, ",", evictions_);
  return out;
}

}  // namespace dunlin::kv
