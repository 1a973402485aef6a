// The pages of one sequence in token order: references for ownership, plain ids beside them for the step's batch.
// Thread-safety: as the pool.  Owns: one reference per page.  Cost: 20 bytes per page; no allocation up to the capacity
// asked from Reserve.  Source: ours.
#ifndef DUNLIN_KVSTORE_PAGE_TABLE_H_
#define DUNLIN_KVSTORE_PAGE_TABLE_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvstore/page_pool.h"

namespace dunlin::kv {

class PageTable {
 public:
  void Reserve(int32_t pages) {
    refs_.reserve(static_cast<size_t>(pages));
    ids_.reserve(static_cast<size_t>(pages));
  }
  void Append(PageRef ref) {
    ids_.push_back(static_cast<int32_t>(ref.page()));
    refs_.push_back(std::move(ref));
  }
  // From the last page to the first, so that the first of a sequence is cached last and evicted last.
  void Clear() {
    while (!refs_.empty()) refs_.pop_back();
    ids_.clear();
  }
  int32_t size() const { return static_cast<int32_t>(refs_.size()); }
  const PageRef& ref(int32_t i) const { return refs_[static_cast<size_t>(i)]; }
  std::span<const int32_t> ids() const { return ids_; }

 private:
  std::vector<PageRef> refs_;
  std::vector<int32_t> ids_;  // parallel to refs_
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PAGE_TABLE_H_
