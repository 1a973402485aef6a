#include "kvstore/page_pool.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::kv {
namespace {

constexpr auto Bits(PageState s) { return static_cast<uint32_t>(s); }

}  // namespace

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
  if (pool_ == nullptr) return;
  pool_->CheckHandle(page_, generation_);
  std::exchange(pool_, nullptr)->Unref(page_, 0);
}

PageRef PageRef::Share() const {
  CHECK(held()) << "sharing an empty page handle";
  pool_->CheckHandle(page_, generation_);
  return pool_->AddRef(page_);
}

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

ReserveOutcome PagePool::Acquire(std::span<PageRef> out) {
  const auto wanted = static_cast<int64_t>(out.size());
  if (wanted > available()) {
    return wanted <= available() + waiting_for_pins_ ? ReserveOutcome::kWaitForPins : ReserveOutcome::kFull;
  }
  for (PageRef& ref : out) {
    CHECK(!ref.held()) << "acquiring into a handle that holds page " << ref.page_;
    if (blank_size_ == 0) {
      const int32_t victim = cached_.Weakest();
      cached_.AgeTo(meta_[static_cast<size_t>(victim)]);
      if (listener_ != nullptr) listener_->OnEvict(static_cast<PageId>(victim));
      Transition(victim, PageState::kBlank);
      ++evictions_;
    }
    ref = AddRef(blank_top_);
  }
  return ReserveOutcome::kGranted;
}

PageRef PagePool::Hold(PageId page) {
  const PageState now = state(page);
  CHECK(now == PageState::kHeld || now == PageState::kCached) << static_cast<int>(now);
  return AddRef(static_cast<int32_t>(page));
}

void PagePool::Pin(PageId page) {
  const PageState now = state(page);
  CHECK(now == PageState::kHeld || now == PageState::kCached) << "pinning a page in state " << static_cast<int>(now);
  AddReference(static_cast<int32_t>(page), 1);
}

void PagePool::Unpin(PageId page) {
  CHECK_GT(pins(page), 0);
  Unref(static_cast<int32_t>(page), 1);
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
  Transition(static_cast<int32_t>(page), PageState::kBlank);
}

int32_t PagePool::Absolve() {
  const int32_t n = quarantine_.size;
  while (quarantine_.head >= 0) Transition(quarantine_.head, PageState::kBlank);
  return n;
}

bool PagePool::WaitsForPins(const Meta& m) {
  return Pins(m) > 0 && m.refs == m.pins && m.fate != Bits(PageState::kQuarantine);
}

PageRef PagePool::AddRef(int32_t page) {
  AddReference(page, 0);
  return PageRef(this, page, meta_[static_cast<size_t>(page)].generation);
}

void PagePool::AddReference(int32_t page, int pins) {
  Meta& m = meta_[static_cast<size_t>(page)];
  if (!Held(m)) Transition(page, PageState::kHeld);
  waiting_for_pins_ -= WaitsForPins(m) ? 1 : 0;
  pinned_ += pins > 0 && m.pins == 0 ? 1 : 0;
  ++m.refs;
  m.pins += pins;
  waiting_for_pins_ += WaitsForPins(m) ? 1 : 0;
}

void PagePool::Unref(int32_t page, int pins) {
  Meta& m = meta_[static_cast<size_t>(page)];
  CHECK_GT(Refs(m) - m.pins + pins, 0) << "page " << page;  // a handle never gives up a pin
  waiting_for_pins_ -= WaitsForPins(m) ? 1 : 0;
  --m.refs;
  m.pins -= pins;
  pinned_ -= pins > 0 && m.pins == 0 ? 1 : 0;
  waiting_for_pins_ += WaitsForPins(m) ? 1 : 0;
  if (m.refs == 0) Transition(page, static_cast<PageState>(m.fate));
}

void PagePool::CheckHandle(int32_t page, uint32_t generation) const {
  const Meta& m = meta_[static_cast<size_t>(page)];
  CHECK_EQ(uint32_t{m.generation}, generation) << "stale handle of page " << page;
  CHECK_GT(Refs(m), 0);
}

void PagePool::Transition(int32_t page, PageState to) {
  Meta& m = meta_[static_cast<size_t>(page)];
  CHECK_EQ(Refs(m), 0);
  const auto from = static_cast<PageState>(m.state);
  switch (from) {
    case PageState::kBlank:
      CHECK_EQ(to, PageState::kHeld);
      CHECK_EQ(blank_top_, page);
      blank_top_ = m.next;
      --blank_size_;
      break;
    case PageState::kHeld:
      CHECK_NE(to, PageState::kHeld);
      m.generation = (m.generation + 1) & 0x3FFFFu;
      break;
    case PageState::kCached:
      CHECK(to == PageState::kHeld || to == PageState::kBlank) << static_cast<int>(to);
      cached_.Remove(meta_.data(), page);
      break;
    case PageState::kQuarantine:
      CHECK_EQ(to, PageState::kBlank);
      quarantine_.Remove(meta_.data(), page);
      break;
  }
  switch (to) {
    case PageState::kBlank:
      CHECK_EQ(m.node, -1) << "a blank page is in the index";
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
  m.state = Bits(to) & 3u;
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
