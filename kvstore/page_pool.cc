#include "kvstore/page_pool.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::kv {
namespace {

constexpr auto Bits(PageState s) { return static_cast<uint32_t>(s); }

}  // namespace

PagePool::PagePool(int32_t num_pages, EvictionPolicy policy, EvictionListener* listener)
    : listener_(listener), cached_(policy) {
  CHECK_GE(num_pages, 1);
  meta_.resize(static_cast<size_t>(num_pages));
  // Page 0 is handed out first.
  for (int32_t i = num_pages - 1; i >= 0; --i) {
    meta_[static_cast<size_t>(i)].next = blank_top_;
    blank_top_ = i;
  }
  blank_size_ = num_pages;
}

PagePool::~PagePool() { CHECK_EQ(stats().held, 0); }

size_t PagePool::Index(PageId page) const {
  const auto index = static_cast<int32_t>(page);
  CHECK(index >= 0 && static_cast<size_t>(index) < meta_.size()) << "page " << index;
  return static_cast<size_t>(index);
}

void PagePool::CheckHandle(int32_t page, uint16_t generation) const {
  const Meta& m = meta_[static_cast<size_t>(page)];
  CHECK(m.generation == generation && Held(m) && m.refs > 0)
      << "stale handle of page " << page << ": generation " << generation << ", now " << m.generation << ", " << Refs(m)
      << " references";
}

// Inlined, so that where both states are known nothing of the rest is left.
[[gnu::always_inline]] inline void PagePool::Transition(int32_t page, PageState from, PageState to) {
  Meta& m = meta_[static_cast<size_t>(page)];
  CHECK(m.state == Bits(from) && Refs(m) == 0) << "page " << page << " in state " << m.state;
  switch (from) {
    case PageState::kBlank:
      CHECK(to == PageState::kHeld && blank_top_ == page) << "page " << page;
      blank_top_ = m.next;
      --blank_size_;
      break;
    case PageState::kHeld:
      CHECK(to != PageState::kHeld) << "page " << page;
      ++m.generation;
      break;
    case PageState::kCached:
      CHECK(to == PageState::kHeld || to == PageState::kBlank) << "page " << page;
      cached_.Remove(meta_.data(), page);
      break;
    case PageState::kQuarantine:
      CHECK(to == PageState::kBlank) << "page " << page;
      quarantine_.Remove(meta_.data(), page);
      break;
  }
  m.state = Bits(to) & 3u;
  switch (to) {
    case PageState::kBlank:
      CHECK(m.node == -1) << "blank page " << page << " is in the index";
      m.prev = -1;
      m.next = blank_top_;
      blank_top_ = page;
      ++blank_size_;
      break;
    case PageState::kHeld:
      // A cached page stays worth keeping; a blank one has yet to earn it.
      m.fate = Bits(from == PageState::kCached ? PageState::kCached : PageState::kBlank) & 3u;
      m.rank = 0;
      if (from == PageState::kBlank) m.level = 0;
      m.refs = m.pins = 0;
      break;
    case PageState::kCached:
      cached_.Insert(meta_.data(), page, static_cast<int>(m.rank), m.level);
      break;
    case PageState::kQuarantine:
      quarantine_.Append(meta_.data(), page);
      break;
  }
}

ReserveOutcome PagePool::Acquire(std::span<PageRef> out) {
  const auto wanted = static_cast<int64_t>(out.size());
  if (wanted > available()) {
    return wanted <= available() + waiting_for_pins_ ? ReserveOutcome::kWaitForPins : ReserveOutcome::kFull;
  }
  for (PageRef& ref : out) {
    CHECK(!ref.held()) << "acquiring into a handle that holds page " << ref.page_;
    if (blank_size_ == 0) Evict();
    const int32_t page = blank_top_;
    Transition(page, PageState::kBlank, PageState::kHeld);
    Meta& m = meta_[static_cast<size_t>(page)];
    m.refs = 1;
    ref.pool_ = this;
    ref.page_ = page;
    ref.generation_ = m.generation;
  }
  return ReserveOutcome::kGranted;
}

void PagePool::Evict() {
  const int32_t victim = cached_.Weakest();
  const Meta& m = meta_[static_cast<size_t>(victim)];
  // The one after the next, whose turn is in two: lists run across all pages.
  if (m.next >= 0) {
    if (const int32_t ahead = meta_[static_cast<size_t>(m.next)].next; ahead >= 0) Prefetch(PageId{ahead});
  }
  cached_.AgeTo(m);
  if (listener_ != nullptr) listener_->OnEvict(static_cast<PageId>(victim));
  Transition(victim, PageState::kCached, PageState::kBlank);
  ++evictions_;
}

PageRef PagePool::Hold(PageId page) {
  AddReference(page, 0);
  return PageRef(this, static_cast<int32_t>(page), meta_[static_cast<size_t>(page)].generation);
}

void PagePool::Pin(PageId page) { AddReference(page, 1); }

void PagePool::Unpin(PageId page) {
  CHECK_GT(pins(page), 0);
  Meta& m = meta_[Index(page)];
  waiting_for_pins_ -= WaitsForPins(m) ? 1 : 0;
  --m.refs;
  --m.pins;
  pinned_ -= m.pins == 0 ? 1 : 0;
  waiting_for_pins_ += WaitsForPins(m) ? 1 : 0;
  if (m.refs == 0) Transition(static_cast<int32_t>(page), PageState::kHeld, static_cast<PageState>(m.fate));
}

void PagePool::SetFate(PageId page, PageState fate) {
  Meta& m = meta_[Index(page)];
  CHECK_EQ(state(page), PageState::kHeld);
  CHECK_NE(fate, PageState::kHeld);
  waiting_for_pins_ -= WaitsForPins(m) ? 1 : 0;
  m.fate = Bits(fate) & 3u;
  waiting_for_pins_ += WaitsForPins(m) ? 1 : 0;
}

void PagePool::SetWeight(PageId page, int weight) {
  Meta& m = meta_[Index(page)];
  CHECK_EQ(state(page), PageState::kHeld);
  CHECK(weight >= 0 && weight <= EvictionQueue<Meta>::kMaxWeight) << weight;
  m.rank = static_cast<uint32_t>(weight) & 15u;
}

void PagePool::Requeue(PageId page, int weight) {
  CHECK_EQ(state(page), PageState::kCached);
  cached_.Remove(meta_.data(), static_cast<int32_t>(page));
  cached_.Insert(meta_.data(), static_cast<int32_t>(page), weight, level(page));
}

void PagePool::Discard(PageId page) {
  CHECK_EQ(state(page), PageState::kCached);
  Transition(static_cast<int32_t>(page), PageState::kCached, PageState::kBlank);
}

int32_t PagePool::Absolve() {
  const int32_t n = quarantine_.size;
  while (quarantine_.head >= 0) Transition(quarantine_.head, PageState::kQuarantine, PageState::kBlank);
  return n;
}

bool PagePool::WaitsForPins(const Meta& m) {
  return Pins(m) > 0 && m.refs == m.pins && m.fate != Bits(PageState::kQuarantine);
}

void PagePool::AddReference(PageId page, int pins) {
  const auto p = static_cast<int32_t>(page);
  Meta& m = meta_[Index(page)];
  if (!Held(m)) {
    CHECK_EQ(state(page), PageState::kCached) << "taking page " << p;
    Transition(p, PageState::kCached, PageState::kHeld);
  }
  if (pins == 0 && m.pins == 0) {
    ++m.refs;
    return;
  }
  waiting_for_pins_ -= WaitsForPins(m) ? 1 : 0;
  pinned_ += pins > 0 && m.pins == 0 ? 1 : 0;
  ++m.refs;
  m.pins += pins;
  waiting_for_pins_ += WaitsForPins(m) ? 1 : 0;
}

void PagePool::Unref(int32_t page, uint16_t generation) {
  CheckHandle(page, generation);
  Meta& m = meta_[static_cast<size_t>(page)];
  if (m.pins > 0) {
    CHECK_GT(m.refs, m.pins) << "page " << page;
    --m.refs;
    waiting_for_pins_ += WaitsForPins(m) ? 1 : 0;
  } else if (--m.refs == 0) {
    Transition(page, PageState::kHeld, static_cast<PageState>(m.fate));
  }
}

PageRef& PageRef::operator=(PageRef&& o) noexcept {
  if (this != &o) {
    Reset();
    pool_ = std::exchange(o.pool_, nullptr);
    page_ = o.page_;
    generation_ = o.generation_;
  }
  return *this;
}

void PageRef::Reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->Unref(page_, generation_);
}

PageRef PageRef::Share() const {
  CHECK(held()) << "sharing an empty page handle";
  pool_->CheckHandle(page_, generation_);
  return pool_->Hold(page());
}

KvStats PagePool::stats() const {
  KvStats s;
  s.total = num_pages();
  s.blank = blank_size_;
  s.cached = cached_.size();
  s.quarantine = quarantine_.size;
  s.held = s.total - s.blank - s.cached - s.quarantine;
  s.pinned = pinned_;
  s.evictions = evictions_;
  return s;
}

}  // namespace dunlin::kv
