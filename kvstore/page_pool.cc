#include "kvstore/page_pool.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/check.h"

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

void PageRef::Reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->Unref(page_, generation_);
}

PageRef PageRef::Share() const {
  CHECK(held()) << "sharing an empty page handle";
  pool_->CheckHandle(page_, generation_);
  return pool_->AddRef(page_);
}

PagePool::PagePool(int32_t num_pages) {
  CHECK_GE(num_pages, 1);
  meta_.resize(static_cast<size_t>(num_pages));
  blank_.resize(static_cast<size_t>(num_pages));
  // Page 0 is handed out first.
  for (int32_t i = 0; i < num_pages; ++i) blank_[static_cast<size_t>(i)] = num_pages - 1 - i;
  blank_size_ = num_pages;
}

PagePool::~PagePool() { CHECK_EQ(stats().held, 0); }

size_t PagePool::Index(PageId page) const {
  const auto index = static_cast<int32_t>(page);
  CHECK(index >= 0 && static_cast<size_t>(index) < meta_.size()) << "page " << index;
  return static_cast<size_t>(index);
}

bool PagePool::Acquire(std::span<PageRef> out) {
  if (out.size() > static_cast<size_t>(available())) return false;
  for (PageRef& ref : out) {
    CHECK(!ref.held()) << "acquiring into a handle that holds page " << ref.page_;
    if (blank_size_ == 0) {
      Transition(cached_.head, PageState::kBlank);
      ++evictions_;
    }
    const int32_t page = blank_[static_cast<size_t>(blank_size_ - 1)];
    Transition(page, PageState::kHeld);
    ref = AddRef(page);
  }
  return true;
}

PageRef PagePool::AcquireCached(PageId page) {
  const size_t i = Index(page);
  CHECK_EQ(meta_[i].state, PageState::kCached);
  Transition(static_cast<int32_t>(page), PageState::kHeld);
  return AddRef(static_cast<int32_t>(page));
}

void PagePool::SetFate(PageId page, PageState fate) {
  Meta& m = meta_[Index(page)];
  CHECK_EQ(m.state, PageState::kHeld);
  CHECK_NE(fate, PageState::kHeld);
  m.fate = fate;
}

int32_t PagePool::Flush() { return Drain(&cached_); }
int32_t PagePool::Absolve() { return Drain(&quarantine_); }

int32_t PagePool::Drain(Queue* queue) {
  const int32_t n = queue->size;
  while (queue->head >= 0) Transition(queue->head, PageState::kBlank);
  return n;
}

PageRef PagePool::AddRef(int32_t page) {
  Meta& m = meta_[static_cast<size_t>(page)];
  ++m.refs;
  return PageRef(this, page, m.generation);
}

void PagePool::Unref(int32_t page, uint32_t generation) {
  CheckHandle(page, generation);
  Meta& m = meta_[static_cast<size_t>(page)];
  if (--m.refs == 0) Transition(page, m.fate);
}

void PagePool::CheckHandle(int32_t page, uint32_t generation) const {
  const Meta& m = meta_[static_cast<size_t>(page)];
  CHECK_EQ(m.generation, generation) << "stale handle of page " << page;
  CHECK_EQ(m.state, PageState::kHeld);
  CHECK_GT(m.refs, 0);
}

void PagePool::Transition(int32_t page, PageState to) {
  Meta& m = meta_[static_cast<size_t>(page)];
  CHECK_EQ(m.refs, 0);
  switch (m.state) {
    case PageState::kBlank:
      CHECK_EQ(to, PageState::kHeld);
      CHECK_EQ(blank_[static_cast<size_t>(blank_size_ - 1)], page);
      --blank_size_;
      break;
    case PageState::kHeld:
      CHECK_NE(to, PageState::kHeld);
      ++m.generation;
      break;
    case PageState::kCached:
      CHECK(to == PageState::kHeld || to == PageState::kBlank) << static_cast<int>(to);
      Remove(&cached_, page);
      break;
    case PageState::kQuarantine:
      CHECK_EQ(to, PageState::kBlank);
      Remove(&quarantine_, page);
      break;
  }
  switch (to) {
    case PageState::kBlank:
      blank_[static_cast<size_t>(blank_size_++)] = page;
      break;
    case PageState::kHeld:
      // A cached page stays worth keeping; a blank one has yet to earn it.
      m.fate = m.state == PageState::kCached ? PageState::kCached : PageState::kBlank;
      break;
    case PageState::kCached:
      Append(&cached_, page);
      break;
    case PageState::kQuarantine:
      Append(&quarantine_, page);
      break;
  }
  m.state = to;
}

void PagePool::Append(Queue* queue, int32_t page) {
  Meta& m = meta_[static_cast<size_t>(page)];
  m.prev = queue->tail;
  m.next = -1;
  (queue->tail >= 0 ? meta_[static_cast<size_t>(queue->tail)].next : queue->head) = page;
  queue->tail = page;
  ++queue->size;
}

void PagePool::Remove(Queue* queue, int32_t page) {
  Meta& m = meta_[static_cast<size_t>(page)];
  (m.prev >= 0 ? meta_[static_cast<size_t>(m.prev)].next : queue->head) = m.next;
  (m.next >= 0 ? meta_[static_cast<size_t>(m.next)].prev : queue->tail) = m.prev;
  m.prev = m.next = -1;
  --queue->size;
}

KvStats PagePool::stats() const {
  KvStats s;
  s.total = static_cast<int32_t>(meta_.size());
  s.blank = blank_size_;
  s.cached = cached_.size;
  s.quarantine = quarantine_.size;
  s.held = s.total - s.blank - s.cached - s.quarantine;
  s.evictions = evictions_;
  return s;
}

std::string PagePool::CheckQueue(const char* name, const Queue& queue, PageState state) const {
  int32_t n = 0, prev = -1;
  for (int32_t p = queue.head; p >= 0; p = meta_[static_cast<size_t>(p)].next) {
    const Meta& m = meta_[static_cast<size_t>(p)];
    if (m.state != state) return absl::StrCat("queue ", name, ": page ", p, " has state ", static_cast<int>(m.state));
    if (m.prev != prev) return absl::StrCat("queue ", name, ": page ", p, " names ", m.prev, " before it, not ", prev);
    prev = p;
    if (++n > queue.size) return absl::StrCat("queue ", name, ": longer than its size ", queue.size);
  }
  if (n != queue.size || queue.tail != prev) {
    return absl::StrCat("queue ", name, ": ", n, " pages ending in ", prev, ", but size ", queue.size, " and tail ",
                        queue.tail);
  }
  return "";
}

std::string PagePool::CheckInvariants() const {
  std::vector<int32_t> in_state(4, 0);
  for (size_t i = 0; i < meta_.size(); ++i) {
    const Meta& m = meta_[i];
    ++in_state[static_cast<size_t>(m.state)];
    if ((m.refs > 0) != (m.state == PageState::kHeld)) {
      return absl::StrCat("refs: page ", i, " has ", m.refs, " references in state ", static_cast<int>(m.state));
    }
  }
  std::vector<bool> seen(meta_.size(), false);
  for (int32_t i = 0; i < blank_size_; ++i) {
    const auto page = static_cast<size_t>(blank_[static_cast<size_t>(i)]);
    if (meta_[page].state != PageState::kBlank || seen[page]) {
      return absl::StrCat("blank stack: page ", page, " at ", i, seen[page] ? " twice" : " is not blank");
    }
    seen[page] = true;
  }
  const KvStats s = stats();
  const int32_t counted[] = {s.blank, s.held, s.cached, s.quarantine};
  for (size_t i = 0; i < in_state.size(); ++i) {
    if (in_state[i] != counted[i]) {
      return absl::StrCat("conservation: ", in_state[i], " pages in state ", i, ", structures list ", counted[i]);
    }
  }
  if (std::string e = CheckQueue("cached", cached_, PageState::kCached); !e.empty()) return e;
  return CheckQueue("quarantine", quarantine_, PageState::kQuarantine);
}

}  // namespace dunlin::kv
