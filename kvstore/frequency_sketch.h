// How often prefixes that left the cache had been used, roughly, in a fixed room: a count-min sketch of one byte
// counters. A prefix that comes back starts with the count it left with; without that memory a page that is used every
// few minutes looks new each time. A collision makes a page look more used than it was, never less. One counter decays
// for every 8 evictions, in turn, so that the past fades.
// Thread-safety: none.  Owns: the counters, 64 per page up to 2^19 and no fewer than 4 per page.  Cost: O(1), no
// allocation. Source: count-min is Cormode's and Muthukrishnan's; remembering evicted pages is ARC's and TinyLFU's
// idea.
#ifndef DUNLIN_KVSTORE_FREQUENCY_SKETCH_H_
#define DUNLIN_KVSTORE_FREQUENCY_SKETCH_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dunlin::kv {

class FrequencySketch {
 public:
  static constexpr size_t kBytesPerPage = 4;

  explicit FrequencySketch(int32_t num_pages) : counters_(NumCounters(static_cast<size_t>(num_pages))) {}

  // hash: of the prefix, the same whenever it comes back.
  int Count(uint64_t hash) const { return std::min(counters_[First(hash)], counters_[Second(hash)]); }
  void Remember(uint64_t hash, int count) {
    const auto c = static_cast<uint8_t>(std::clamp(count, 0, 255));
    for (const size_t at : {First(hash), Second(hash)}) counters_[at] = std::max(counters_[at], c);
    if (++remembered_ % kDecayEvery != 0) return;
    uint8_t& old = counters_[remembered_ / kDecayEvery % counters_.size()];
    if (old > 0) --old;
  }
  // Everything that was remembered so far, for comparing two moments.
  uint64_t version() const { return remembered_; }

 private:
  static constexpr uint64_t kDecayEvery = 8;

  static size_t NumCounters(size_t pages) {
    return std::bit_floor(std::max(kBytesPerPage * pages, std::min<size_t>(64 * pages, size_t{1} << 19)));
  }
  size_t First(uint64_t hash) const { return hash & (counters_.size() - 1); }
  size_t Second(uint64_t hash) const { return hash * 0x9E3779B97F4A7C15u >> 32 & (counters_.size() - 1); }

  std::vector<uint8_t> counters_;
  uint64_t remembered_ = 0;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_FREQUENCY_SKETCH_H_
