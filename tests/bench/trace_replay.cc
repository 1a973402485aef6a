#include "tests/bench/trace_replay.h"

#include <algorithm>
#include <cstddef>
#include <iomanip>
#include <iterator>
#include <list>
#include <memory>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "base/check.h"
#include "kvstore/kv_store.h"

namespace dunlin::bench {
namespace {

constexpr int kPageTokens = 16;

size_t I(int32_t i) { return static_cast<size_t>(i); }

// A set of blocks in the order of last use.
class Recency {
 public:
  explicit Recency(int32_t num_blocks) : where_(I(num_blocks)), in_(I(num_blocks), false) {}
  bool contains(int32_t block) const { return in_[I(block)]; }
  int32_t size() const { return static_cast<int32_t>(order_.size()); }
  void Push(int32_t block) {  // the youngest
    where_[I(block)] = order_.insert(order_.end(), block);
    in_[I(block)] = true;
  }
  void Remove(int32_t block) {
    order_.erase(where_[I(block)]);
    in_[I(block)] = false;
  }
  int32_t Pop() {  // the oldest
    const int32_t block = order_.front();
    Remove(block);
    return block;
  }

 private:
  std::list<int32_t> order_;
  std::vector<std::list<int32_t>::iterator> where_;
  std::vector<bool> in_;
};

// Adaptive replacement: recent_ and frequent_ are resident, the ghosts remember what left them.
class Arc {
 public:
  Arc(int32_t num_blocks, int32_t capacity)
      : capacity_(capacity),
        recent_(num_blocks),
        frequent_(num_blocks),
        recent_ghosts_(num_blocks),
        frequent_ghosts_(num_blocks) {}

  bool resident(int32_t block) const { return recent_.contains(block) || frequent_.contains(block); }

  void Use(int32_t block) {
    if (resident(block)) {
      (recent_.contains(block) ? recent_ : frequent_).Remove(block);
      frequent_.Push(block);
    } else if (recent_ghosts_.contains(block)) {
      target_ = std::min(capacity_, target_ + std::max(1, frequent_ghosts_.size() / recent_ghosts_.size()));
      Replace(false);
      recent_ghosts_.Remove(block);
      frequent_.Push(block);
    } else if (frequent_ghosts_.contains(block)) {
      target_ = std::max(0, target_ - std::max(1, recent_ghosts_.size() / frequent_ghosts_.size()));
      Replace(true);
      frequent_ghosts_.Remove(block);
      frequent_.Push(block);
    } else {
      MakeRoom();
      recent_.Push(block);
    }
  }

 private:
  void MakeRoom() {
    const int32_t known = recent_.size() + recent_ghosts_.size();
    const int32_t all = known + frequent_.size() + frequent_ghosts_.size();
    if (known == capacity_) {
      if (recent_.size() < capacity_) {
        recent_ghosts_.Pop();
        Replace(false);
      } else {
        recent_.Pop();
      }
    } else if (all >= capacity_) {
      if (all == 2 * capacity_) frequent_ghosts_.Pop();
      Replace(false);
    }
  }
  void Replace(bool in_frequent_ghosts) {
    if (recent_.size() + frequent_.size() < capacity_) return;
    const bool from_recent =
        recent_.size() > 0 && (recent_.size() > target_ || (in_frequent_ghosts && recent_.size() == target_));
    if (from_recent || frequent_.size() == 0) {
      recent_ghosts_.Push(recent_.Pop());
    } else {
      frequent_ghosts_.Push(frequent_.Pop());
    }
  }

  const int32_t capacity_;
  int32_t target_ = 0;  // of recent_
  Recency recent_, frequent_, recent_ghosts_, frequent_ghosts_;
};

std::vector<int32_t> TokensOf(const std::vector<int32_t>& blocks) {
  std::vector<int32_t> tokens;
  tokens.reserve(blocks.size() * kPageTokens + 1);
  for (const int32_t block : blocks) {
    for (int i = 0; i < kPageTokens; ++i) tokens.push_back(block * kPageTokens + i);
  }
  tokens.push_back(-1);  // a store always leaves the last token to compute; so that it is none of a block's
  return tokens;
}

}  // namespace

int64_t ReplayStore(const Trace& trace, int32_t capacity, kv::EvictionPolicy policy) {
  size_t longest = 0;
  for (const auto& blocks : trace.requests) longest = std::max(longest, blocks.size());
  kv::KvOptions options;
  options.num_pages = capacity;
  options.page_tokens = kPageTokens;
  options.max_sequences = 1;
  options.max_pages_per_sequence = static_cast<int32_t>(longest) + 1;
  options.eviction = policy;
  options.hash_key = 1;
  const std::unique_ptr<kv::KvStore> store = kv::KvStore::Create(options);
  int64_t found = 0;
  for (const std::vector<int32_t>& blocks : trace.requests) {
    const std::vector<int32_t> tokens = TokensOf(blocks);
    const kv::MatchResult match = store->Match("", tokens, {});
    CHECK_EQ(match.copied_tokens, 0);  // blocks share no token
    found += match.matched_tokens / kPageTokens;
    // A prompt longer than the cache keeps its beginning there.
    const auto held = static_cast<int32_t>(store->PageTable(match.sequence).size());
    const int32_t pages = std::min(static_cast<int32_t>(blocks.size()), held + store->AvailablePages());
    const kv::ReserveOutcome outcome =
        store->Reserve(match.sequence, match.matched_tokens, std::max(match.matched_tokens, pages * kPageTokens));
    CHECK(outcome == kv::ReserveOutcome::kGranted);
    store->Publish(match.sequence, std::span<const int32_t>(tokens).first(I(pages * kPageTokens)));
    store->EndStep();
    store->Release(match.sequence);
  }
  CHECK_EQ(store->CheckInvariants(), "");
  return found;
}

int64_t SimulateLru(const Trace& trace, int32_t capacity) {
  Recency cache(trace.num_blocks());
  int64_t found = 0;
  for (const std::vector<int32_t>& blocks : trace.requests) {
    size_t n = 0;
    while (n < blocks.size() && cache.contains(blocks[n])) cache.Remove(blocks[n++]);
    found += static_cast<int64_t>(n);
    for (; n < blocks.size() && static_cast<int32_t>(n) < capacity; ++n) {
      if (cache.size() + static_cast<int32_t>(n) == capacity) cache.Pop();
    }
    while (n-- > 0) cache.Push(blocks[n]);  // the end of the prompt first
  }
  return found;
}

int64_t SimulateArc(const Trace& trace, int32_t capacity) {
  Arc arc(trace.num_blocks(), capacity);
  int64_t found = 0;
  for (const std::vector<int32_t>& blocks : trace.requests) {
    for (size_t n = 0; n < blocks.size() && arc.resident(blocks[n]); ++n) ++found;
    for (size_t n = blocks.size(); n-- > 0;) arc.Use(blocks[n]);
  }
  return found;
}

int64_t SimulateClairvoyant(const Trace& trace, int32_t capacity) {
  const auto never = static_cast<int32_t>(trace.requests.size());
  std::vector<std::vector<int32_t>> uses(I(trace.num_blocks()));  // requests, the next one last
  for (int32_t r = never - 1; r >= 0; --r) {
    for (const int32_t block : trace.requests[I(r)]) uses[I(block)].push_back(r);
  }
  using Key = std::pair<int32_t, int32_t>;  // next use, depth: the greatest goes first
  std::set<std::pair<Key, int32_t>> cache;
  std::vector<Key> key(I(trace.num_blocks()));
  int64_t found = 0;
  for (const std::vector<int32_t>& blocks : trace.requests) {
    bool hit = true;
    for (const int32_t block : blocks) {
      hit = cache.erase({key[I(block)], block}) == 1 && hit;
      found += hit ? 1 : 0;
      uses[I(block)].pop_back();
    }
    for (size_t n = 0; n < blocks.size(); ++n) {
      const std::vector<int32_t>& left = uses[I(blocks[n])];
      key[I(blocks[n])] = {left.empty() ? never : left.back(), static_cast<int32_t>(n)};
      if (static_cast<int32_t>(cache.size()) == capacity) {
        const auto last = std::prev(cache.end());
        if (last->first <= key[I(blocks[n])]) break;  // and without this block those after it are of no use
        cache.erase(last);
      }
      cache.insert({key[I(blocks[n])], blocks[n]});
    }
  }
  return found;
}

TraceRow ReplayTrace(const Trace& trace, int32_t capacity) {
  const auto ratio = [&trace](int64_t found) { return static_cast<double>(found) / static_cast<double>(trace.total); };
  return {capacity, ratio(ReplayStore(trace, capacity, kv::EvictionPolicy::kGreedyDual)),
          ratio(ReplayStore(trace, capacity, kv::EvictionPolicy::kLru)), ratio(SimulateArc(trace, capacity)),
          ratio(SimulateClairvoyant(trace, capacity))};
}

void PrintTraceRows(const std::vector<TraceRow>& rows, std::ostream& out) {
  out << "capacity\tours\tlru\tarc\tclairvoyant\tours/lru\n" << std::fixed;
  for (const TraceRow& row : rows) {
    out << row.capacity << std::setprecision(4) << '\t' << row.ours << '\t' << row.lru << '\t' << row.arc << '\t'
        << row.clairvoyant << std::setprecision(3) << '\t' << row.ours / row.lru << '\n';
  }
}

}  // namespace dunlin::bench
