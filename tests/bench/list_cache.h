// The KV bookkeeping as one writes it in an afternoon, to compare with: blocks behind shared_ptr, a std::list of the
// unreferenced ones from the longest unused on, and an unordered_map from the hash of a prefix to its block. Hashes are
// not verified, nothing is a transaction, there is no copy-on-write and no second tier.
// Thread-safety: none.  Owns: all blocks. Cost: a node allocation per freed and per published block. Source: ours.
#ifndef DUNLIN_TESTS_BENCH_LIST_CACHE_H_
#define DUNLIN_TESTS_BENCH_LIST_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/prefix_hash.h"

namespace dunlin::bench {

class ListCache {
 public:
  ListCache(int32_t num_pages, int page_tokens, int32_t max_sequences)
      : page_tokens_(static_cast<size_t>(page_tokens)), tables_(static_cast<size_t>(max_sequences)) {
    for (int32_t i = 0; i < num_pages; ++i) free_.push_back(std::make_shared<Block>(Block{i, 0, 0, {}}));
    for (int32_t i = max_sequences - 1; i >= 0; --i) free_tables_.push_back(i);
  }

  // Tokens that need no computation.
  int32_t Match(std::span<const int32_t> tokens, int32_t* sequence) {
    *sequence = free_tables_.back();
    free_tables_.pop_back();
    std::vector<std::shared_ptr<Block>>& table = tables_[static_cast<size_t>(*sequence)];
    uint64_t hash = RootPrefix("");
    for (size_t at = 0; at + page_tokens_ < tokens.size(); at += page_tokens_) {
      hash = ExtendPrefix(hash, tokens.subspan(at, page_tokens_));
      const auto found = by_hash_.find(hash);
      if (found == by_hash_.end()) break;
      if (found->second->references++ == 0) free_.erase(found->second->where);
      table.push_back(found->second);
    }
    return static_cast<int32_t>(table.size() * page_tokens_);
  }

  bool Reserve(int32_t sequence, int32_t num_tokens) {
    std::vector<std::shared_ptr<Block>>& table = tables_[static_cast<size_t>(sequence)];
    const size_t pages = (static_cast<size_t>(num_tokens) + page_tokens_ - 1) / page_tokens_;
    if (pages > table.size() + free_.size()) return false;
    while (table.size() < pages) {
      std::shared_ptr<Block> block = std::move(free_.front());
      free_.pop_front();
      if (block->hash != 0) by_hash_.erase(block->hash);
      block->hash = 0;
      block->references = 1;
      table.push_back(std::move(block));
    }
    return true;
  }

  void Publish(int32_t sequence, std::span<const int32_t> tokens) {
    uint64_t hash = RootPrefix("");
    for (size_t i = 0; (i + 1) * page_tokens_ <= tokens.size(); ++i) {
      hash = ExtendPrefix(hash, tokens.subspan(i * page_tokens_, page_tokens_));
      const std::shared_ptr<Block>& block = tables_[static_cast<size_t>(sequence)][i];
      if (block->hash == 0 && by_hash_.try_emplace(hash, block).second) block->hash = hash;
    }
  }

  std::vector<int32_t> PageIds(int32_t sequence) const {
    std::vector<int32_t> ids;
    for (const std::shared_ptr<Block>& block : tables_[static_cast<size_t>(sequence)]) ids.push_back(block->id);
    return ids;
  }

  void Release(int32_t sequence) {
    std::vector<std::shared_ptr<Block>>& table = tables_[static_cast<size_t>(sequence)];
    while (!table.empty()) {
      std::shared_ptr<Block> block = std::move(table.back());
      table.pop_back();
      if (--block->references > 0) continue;
      Block* const raw = block.get();
      // Blocks without a prefix go first.
      raw->where = free_.insert(raw->hash == 0 ? free_.begin() : free_.end(), std::move(block));
    }
    free_tables_.push_back(sequence);
  }

 private:
  struct Block {
    int32_t id;
    int32_t references;
    uint64_t hash;
    std::list<std::shared_ptr<Block>>::iterator where;
  };

  const size_t page_tokens_;
  std::list<std::shared_ptr<Block>> free_;
  std::unordered_map<uint64_t, std::shared_ptr<Block>> by_hash_;
  std::vector<std::vector<std::shared_ptr<Block>>> tables_;
  std::vector<int32_t> free_tables_;
};

}  // namespace dunlin::bench

#endif  // DUNLIN_TESTS_BENCH_LIST_CACHE_H_
