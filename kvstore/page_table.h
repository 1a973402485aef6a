// The pages of one sequence, in token order. Thread-safety: engine thread only.  Owns: one reference per page.
// Pages are given up from the end, so that in the eviction queue a page never comes before those that follow it.
// Cost: allocates in Open alone (once per slot: the room is kept when it is reused).  Source: ours.
#ifndef DUNLIN_KVSTORE_PAGE_TABLE_H_
#define DUNLIN_KVSTORE_PAGE_TABLE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/page_pool.h"

namespace dunlin::kv {

class PageTable {
 public:
  // Room for `max_pages`.
  void Open(int32_t max_pages);
  void Append(PageRef page);
  // Puts another page in a place; the one that was there is given up.
  void Replace(int32_t index, PageRef page);
  // Makes the table at most `num_pages` long.
  void Shrink(int32_t num_pages);
  void Clear() { Shrink(0); }

  int32_t size() const { return static_cast<int32_t>(ids_.size()); }
  int32_t capacity() const { return capacity_; }
  PageId page(int32_t index) const { return static_cast<PageId>(ids_[static_cast<size_t>(index)]); }
  PageRef Share(int32_t index) const { return refs_[static_cast<size_t>(index)].Share(); }
  std::span<const int32_t> ids() const { return ids_; }

 private:
  friend struct TestPeer;
  int32_t capacity_ = 0;
  std::vector<PageRef> refs_;
  std::vector<int32_t> ids_;  // of refs_, as the kernels read them
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PAGE_TABLE_H_
