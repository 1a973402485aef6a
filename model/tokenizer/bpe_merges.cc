#include "model/tokenizer/bpe_merges.h"

#include <algorithm>
#include <array>
#include <functional>

namespace dunlin::model {
namespace {

// Up to here, looking at every pair again after each merge is cheaper than a heap.
constexpr size_t kShortPiece = 32;
constexpr TokenId kMerged = -1;  // a symbol that its left neighbour has taken in

uint64_t PairKey(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BpeMerges::Reserve(size_t rules) {
  rules_.reserve(rules);
  ranks_.reserve(rules);
}

void BpeMerges::Add(TokenId left, TokenId right, TokenId result) {
  if (ranks_.try_emplace(PairKey(left, right), static_cast<uint32_t>(rules_.size())).second) {
    rules_.push_back({left, right, result});
  }
}

uint32_t BpeMerges::RankOf(TokenId left, TokenId right) const {
  const auto it = ranks_.find(PairKey(left, right));
  return it == ranks_.end() ? kNone : it->second;
}

void BpeMerges::Apply(std::span<TokenId> symbols, std::vector<TokenId>* out) const {
  if (symbols.size() <= kShortPiece) {
    ApplyShort(symbols, out);
  } else {
    ApplyLong(symbols, out);
  }
}

void BpeMerges::ApplyShort(std::span<TokenId> symbols, std::vector<TokenId>* out) const {
  size_t n = symbols.size();
  TokenId* const ids = symbols.data();
  std::array<uint32_t, kShortPiece> rank_table;
  uint32_t* const ranks = rank_table.data();  // of the pair (i, i + 1)
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = RankOf(ids[i], ids[i + 1]);
  while (n > 1) {
    const auto best = static_cast<size_t>(std::min_element(ranks, ranks + n - 1) - ranks);
    if (ranks[best] == kNone) break;
    ids[best] = rules_[ranks[best]].result;
    std::copy(ids + best + 2, ids + n, ids + best + 1);
    // The pair after `best` and all to its right move one place down.
    if (best + 2 < n) std::copy(ranks + best + 1, ranks + n - 1, ranks + best);
    --n;
    if (best + 1 < n) ranks[best] = RankOf(ids[best], ids[best + 1]);
    if (best > 0) ranks[best - 1] = RankOf(ids[best - 1], ids[best]);
  }
  out->insert(out->end(), ids, ids + n);
}

void BpeMerges::ApplyLong(std::span<TokenId> symbols, std::vector<TokenId>* out) const {
  const auto n = static_cast<uint32_t>(symbols.size());
  // Neighbours among the symbols that are left; n = none.
  std::vector<uint32_t> next(n);
  std::vector<uint32_t> previous(n);
  // Candidates as rank << 32 | left symbol: the order of the numbers is the order of merging.
  std::vector<uint64_t> heap;
  heap.reserve(n);
  const auto candidate = [&](uint32_t left, uint32_t right) {
    const uint32_t rank = RankOf(symbols[left], symbols[right]);
    if (rank == kNone) return false;
    heap.push_back(uint64_t{rank} << 32 | left);
    return true;
  };
  for (uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? n : i - 1;
    next[i] = i + 1;
    if (i + 1 < n) candidate(i, i + 1);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const uint64_t top = heap.back();
    heap.pop_back();
    const auto left = static_cast<uint32_t>(top);
    const Rule& rule = rules_[top >> 32];
    const uint32_t right = next[left];
    // A candidate whose symbols have merged elsewhere since is void; a rank names its two symbols.
    if (symbols[left] != rule.left || right == n || symbols[right] != rule.right) continue;
    symbols[left] = rule.result;
    symbols[right] = kMerged;
    const uint32_t after = next[right];
    next[left] = after;
    if (after != n) previous[after] = left;
    if (after != n && candidate(left, after)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (previous[left] != n && candidate(previous[left], left)) {
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  for (uint32_t i = 0; i < n; ++i) {
    if (symbols[i] != kMerged) out->push_back(symbols[i]);
  }
}

}  // namespace dunlin::model
