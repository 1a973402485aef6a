#include "kvstore/page_table.h"

#include <cstddef>
#include <utility>

#include "base/check.h"

namespace dunlin::kv {

void PageTable::Open(int32_t max_pages) {
  CHECK(refs_.empty());
  capacity_ = max_pages;
  refs_.reserve(static_cast<size_t>(max_pages));
  ids_.reserve(static_cast<size_t>(max_pages));
}

void PageTable::Append(PageRef page) {
  CHECK_LT(size(), capacity_);
  ids_.push_back(static_cast<int32_t>(page.page()));
  refs_.push_back(std::move(page));
}

void PageTable::Replace(int32_t index, PageRef page) {
  CHECK(index >= 0 && index < size()) << index;
  ids_[static_cast<size_t>(index)] = static_cast<int32_t>(page.page());
  refs_[static_cast<size_t>(index)] = std::move(page);
}

void PageTable::Shrink(int32_t num_pages) {
  while (size() > num_pages) {
    refs_.pop_back();
    ids_.pop_back();
  }
}

}  // namespace dunlin::kv
