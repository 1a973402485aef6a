#include "kvstore/page_table.h"

#include <cstddef>

#include "base/check.h"

namespace dunlin::kv {

void PageTable::Open(int32_t max_pages) {
  CHECK(refs_.empty());
  capacity_ = max_pages;
  refs_.reserve(static_cast<size_t>(max_pages));
  ids_.reserve(static_cast<size_t>(max_pages));
}

bool PageTable::Grow(PagePool* pool, int32_t num_pages) {
  CHECK_LE(num_pages, capacity_);
  const size_t had = refs_.size();
  if (static_cast<size_t>(num_pages) <= had) return true;
  refs_.resize(static_cast<size_t>(num_pages));
  if (!pool->Acquire(std::span(refs_).subspan(had))) {
    refs_.resize(had);
    return false;
  }
  for (size_t i = had; i < refs_.size(); ++i) ids_.push_back(static_cast<int32_t>(refs_[i].page()));
  return true;
}

void PageTable::Shrink(int32_t num_pages) {
  while (size() > num_pages) {
    refs_.pop_back();
    ids_.pop_back();
  }
}

void PageTable::Clear() { Shrink(0); }

}  // namespace dunlin::kv
