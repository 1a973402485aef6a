// The pages of one device as ids: which are blank, held, cached or set aside. The bytes belong to the runner.
// Thread-safety: engine thread only.  Owns: every page's state; 24 bytes per page, allocated by the constructor.
// A PageRef is one reference; the last one to go makes the page blank, or cached when it was marked cacheable. Errors:
// too few pages is a return value (and leaves everything as it was); a stale handle CHECK-fails. Cost: O(1) per page,
// never allocates after construction. Source: ours.
#ifndef DUNLIN_KVSTORE_PAGE_POOL_H_
#define DUNLIN_KVSTORE_PAGE_POOL_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/kv_types.h"

namespace dunlin::kv {

enum class PageState : uint8_t {
  kBlank,       // on the blank stack
  kHeld,        // at least one PageRef
  kCached,      // no PageRef, content worth keeping; in the eviction queue
  kQuarantine,  // no PageRef, content suspect; not handed out until Absolve
};

class PagePool;

// One reference to one page; move-only. Knows the page's generation, so that a handle that outlived its page is found.
class PageRef {
 public:
  PageRef() = default;
  PageRef(PageRef&& o) noexcept : pool_(std::exchange(o.pool_, nullptr)), page_(o.page_), generation_(o.generation_) {}
  PageRef& operator=(PageRef&& o) noexcept;
  PageRef(const PageRef&) = delete;
  PageRef& operator=(const PageRef&) = delete;
  ~PageRef() { Reset(); }

  void Reset();
  PageRef Share() const;  // a second reference to the same page
  bool held() const { return pool_ != nullptr; }
  PageId page() const { return static_cast<PageId>(page_); }

 private:
  friend class PagePool;
  PageRef(PagePool* pool, int32_t page, uint32_t generation) : pool_(pool), page_(page), generation_(generation) {}

  PagePool* pool_ = nullptr;
  int32_t page_ = -1;
  uint32_t generation_ = 0;
};

class PagePool {
 public:
  explicit PagePool(int32_t num_pages);
  PagePool(const PagePool&) = delete;  // PageRefs point here
  PagePool& operator=(const PagePool&) = delete;
  ~PagePool();  // CHECK-fails while a page is held

  // Fills `out` (of empty handles) with fresh pages: blank ones first, then the longest unused cached ones. False, and
  // nothing changed, when there are too few.
  bool Acquire(std::span<PageRef> out);
  // A reference to a cached page, which leaves the eviction queue.
  PageRef AcquireCached(PageId page);
  // What becomes of a held page when its last reference goes; kBlank unless said otherwise.
  void SetFate(PageId page, PageState fate);
  // Cached or quarantined pages become blank; how many.
  int32_t Flush();
  int32_t Absolve();

  PageState state(PageId page) const { return meta_[Index(page)].state; }
  int32_t ref_count(PageId page) const { return meta_[Index(page)].refs; }
  int32_t available() const { return blank_size_ + cached_.size; }
  KvStats stats() const;
  // Walks every structure; "" or the first violated invariant by name with its values.
  std::string CheckInvariants() const;

 private:
  friend class PageRef;
  struct Meta {
    int32_t refs = 0;
    int32_t prev = -1, next = -1;  // neighbours in the queue of kCached or kQuarantine
    uint32_t generation = 0;       // counts the times the page stopped being held
    PageState state = PageState::kBlank;
    PageState fate = PageState::kBlank;
  };
  static_assert(sizeof(Meta) + sizeof(int32_t) <= 128, "bookkeeping per page");
  struct Queue {  // oldest first
    int32_t head = -1, tail = -1, size = 0;
  };

  size_t Index(PageId page) const;
  // The only function that changes a state, and with it the structure that lists the page.
  void Transition(int32_t page, PageState to);
  void Append(Queue* queue, int32_t page);
  void Remove(Queue* queue, int32_t page);
  int32_t Drain(Queue* queue);
  std::string CheckQueue(const char* name, const Queue& queue, PageState state) const;
  PageRef AddRef(int32_t page);
  void Unref(int32_t page, uint32_t generation);
  void CheckHandle(int32_t page, uint32_t generation) const;

  std::vector<Meta> meta_;
  std::vector<int32_t> blank_;  // [num_pages]; the first blank_size_ are the stack
  int32_t blank_size_ = 0;
  Queue cached_;
  Queue quarantine_;
  uint64_t evictions_ = 0;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PAGE_POOL_H_
