// A reference to a page of a PagePool (page_pool.h, which has the rules). Thread-safety: engine thread only.
// Owns: one reference.  Borrows: the pool, which outlives it.
#ifndef DUNLIN_KVSTORE_PAGE_REF_H_
#define DUNLIN_KVSTORE_PAGE_REF_H_

#include <cstdint>
#include <utility>

#include "kvstore/kv_types.h"

namespace dunlin::kv {

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
  PageRef(PagePool* pool, int32_t page, uint16_t generation) : pool_(pool), page_(page), generation_(generation) {}

  PagePool* pool_ = nullptr;
  int32_t page_ = -1;
  uint16_t generation_ = 0;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PAGE_REF_H_
