// The values that cross the façade of kvstore (kv_store.h). Plain data: no invariant of its own, no thread rules.
#ifndef DUNLIN_KVSTORE_KV_TYPES_H_
#define DUNLIN_KVSTORE_KV_TYPES_H_

#include <cstdint>
#include <vector>

namespace dunlin::kv {

enum class PageId : int32_t {};
enum class SequenceId : int32_t {};  // index of an open sequence; reused after Release

enum class ReserveOutcome : uint8_t {
  kGranted,
  kWaitForPins,  // enough pages exist but some are pinned by a transfer: wait, do not preempt
  kFull,
};

enum class EvictionPolicy : uint8_t {
  kGreedyDual,  // frequency with ageing (eviction_queue.h)
  kLru,         // the baseline that benchmarks compare with
};

struct KvOptions {
  int32_t num_pages = 0;
  int page_tokens = 16;
  int32_t max_sequences = 0;
  int32_t max_pages_per_sequence = 0;
  bool prefix_caching = true;  // false: Match finds nothing, Publish indexes nothing
  int32_t host_slots = 0;      // whole-page records of the host tier; 0 = no host tier
  EvictionPolicy eviction = EvictionPolicy::kGreedyDual;
  bool record_events = false;         // for TakeEvents
  uint64_t hash_key = 0;              // of the index' buckets; 0 = random per process
  uint64_t hash_mask = ~uint64_t{0};  // tests: 0 makes every key collide; results must not change
};

// Work for the runner. A list is carried out strictly in order; kCopy and kRestore write page `to`, kSave reads `from`.
struct PageMove {
  enum class Kind : uint8_t {
    kCopy /* page -> page */,
    kSave /* page -> host slot */,
    kRestore /* host slot -> page */
  };
  Kind kind;
  int32_t from;
  int32_t to;
};

struct MatchOptions {
  bool read = true;      // false: share nothing
  bool restore = false;  // bring pages back from the host tier too
};
struct MatchResult {
  SequenceId sequence;
  int32_t matched_tokens = 0;   // need no computation: whole pages plus a copied part of one; < tokens.size()
  int32_t copied_tokens = 0;    // of them, in a page copied because only its beginning matched (sub-page copy-on-write)
  int32_t restored_tokens = 0;  // of them, in pages that come back from the host tier
};

// What a waiting prompt would find; carried from call to call so that looking again costs O(1) plus what is new.
struct PrefixHint {
  int32_t node = -1;
  uint32_t generation = 0;
  int32_t tokens = 0;  // whole pages, resident on the device or the host
};

// Prefix hashes (base/prefix_hash.h) of pages that came into or left the cache.
struct CacheEvents {
  std::vector<uint64_t> added;
  std::vector<uint64_t> removed;
};

struct KvStats {
  int32_t blank = 0, held = 0, cached = 0, quarantine = 0, total = 0;
  int32_t pinned = 0;  // pages with at least one pin
  int32_t host_slots = 0, host_pages = 0;
  int32_t open_sequences = 0;
  uint64_t evictions = 0;                      // cached pages that became blank for somebody else
  uint64_t dedup_pages = 0;                    // computed twice, kept once
  uint64_t copied_pages = 0;                   // copy-on-write
  uint64_t host_saves = 0, host_restores = 0;  // pages
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_KV_TYPES_H_
