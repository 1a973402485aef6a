// The pool of fixed KV pages: ids only, no bytes. A page is in exactly one state; one private function makes every
// transition and keeps every count.
//   BLANK       nothing of value in it; on a stack
//   HELD        referenced by one or more PageRefs
//   CACHED      unreferenced, content worth keeping; in a queue, least recently used first
//   QUARANTINE  content not to be trusted and memory not to be reused until Scrub
// Thread-safety: one owner thread.  Owns: page states, references, order.  Errors: "not enough pages" is a return
// value; a stale or foreign handle and a double release CHECK-fail.  Cost: O(1) per page; no allocation after
// construction; 21 bytes per page.  Source: ours.
#ifndef DUNLIN_KVSTORE_PAGE_POOL_H_
#define DUNLIN_KVSTORE_PAGE_POOL_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/kv_store.h"

namespace dunlin::kv {

class PagePool;
class PageTable;

enum class PageState : uint8_t { kBlank, kHeld, kCached, kQuarantine };
inline constexpr int kNumPageStates = 4;

// One reference to a held page. Move-only; gives the reference back when destroyed. Must not outlive the pool.
class PageRef {
 public:
  PageRef() = default;
  PageRef(PageRef&& o) noexcept
      : pool_(std::exchange(o.pool_, nullptr)), page_(o.page_), generation_(o.generation_) {}
  PageRef& operator=(PageRef&& o) noexcept;
  ~PageRef() { Reset(); }

  bool valid() const { return pool_ != nullptr; }
  PageId page() const { return page_; }
  uint32_t generation() const { return generation_; }
  // A second reference to the same page.
  PageRef Share() const;
  // Gives the reference back now.
  void Reset();

 private:
  friend class PagePool;
  PageRef(PagePool* pool, PageId page, uint32_t generation) : pool_(pool), page_(page), generation_(generation) {}

  PagePool* pool_ = nullptr;
  PageId page_{-1};
  uint32_t generation_ = 0;  // of the page when it was acquired
};

class PagePool {
 public:
  explicit PagePool(int32_t num_pages);
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;
  // Every PageRef must have been given back.
  ~PagePool();

  // Appends n pages to `table`, blank ones first, then the least recently cached; or changes nothing and returns false.
  [[nodiscard]] bool Acquire(int32_t n, PageTable* table);

  // When the last reference goes the page becomes cached instead of blank.
  void KeepWhenReleased(const PageRef& ref);
  // A reference to a cached page, which becomes held.
  PageRef TakeCached(PageId page);
  // When the last reference goes the page is quarantined, whatever else was asked.
  void QuarantineWhenReleased(const PageRef& ref);
  // Quarantined pages become blank; returns how many.
  int32_t Scrub();
  // Cached pages become blank; returns how many.
  int32_t DropCached();

  int32_t num_pages() const { return static_cast<int32_t>(state_.size()); }
  int32_t count(PageState s) const { return counts_[static_cast<size_t>(s)]; }
  int32_t available() const { return count(PageState::kBlank) + count(PageState::kCached); }
  uint64_t evictions() const { return evictions_; }
  PageState state(PageId page) const { return state_[Index(page)]; }
  int32_t references(PageId page) const { return references_[Index(page)]; }

  // "" or the first violated invariant with its values: conservation, stack, queue, reference counts.
  std::string CheckInvariants() const;
  // Every byte of bookkeeping, for comparing before and after.
  std::string DebugSnapshot() const;

 private:
  friend class PageRef;
  enum class Fate : uint8_t { kBlank, kCache, kQuarantine };  // where a page goes with its last reference

  static constexpr int32_t kNone = -1;
  size_t Index(PageId page) const;
  // The only place where a page changes its state.
  void Transition(size_t page, PageState to);
  PageRef Hold(size_t page);
  void CheckHandle(const PageRef& ref) const;
  void AddReference(const PageRef& ref);
  void DropReference(const PageRef& ref);
  std::string CheckStack() const;
  std::string CheckQueue() const;

  std::vector<PageState> state_;
  std::vector<Fate> fate_;
  std::vector<int32_t> references_;
  std::vector<uint32_t> generation_;  // counts how often the page stopped being held
  std::vector<int32_t> previous_, next_;  // queue links of cached pages
  std::vector<int32_t> blank_stack_;
  int32_t queue_head_ = kNone, queue_tail_ = kNone;
  std::array<int32_t, kNumPageStates> counts_{};
  uint64_t evictions_ = 0;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PAGE_POOL_H_
