// What came into and left a prefix cache, for readers who follow it at their own pace: a set of the prefixes present
// now (as hashes, base/prefix_hash.h) and the last events, numbered without gaps. A reader that fell behind the events
// kept, or followed another log, gets a snapshot and goes on from there. The worker keeps one of its own cache; a
// gateway keeps one per worker, fed with what that worker reports, for its own watchers. Thread-safety: thread-safe.
// Append holds the lock for the batch alone and, within the capacity, allocates nothing. Owns: 9 bytes per event kept,
// about 9 per hash present, 8 more per hash while a snapshot is being read. Errors: none; events that contradict the
// set (adding what is there, removing what is not) are dropped. Cost: Append about 50 ns per event; Read copies at most
// max_hashes events, or once per snapshot the whole set, under the lock. Source: ours.
#ifndef DUNLIN_BASE_CACHE_EVENT_LOG_H_
#define DUNLIN_BASE_CACHE_EVENT_LOG_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/mutex.h"

namespace dunlin {

// How far a reader follows a log. All zero: not at all.
struct CachePosition {
  uint64_t epoch = 0;     // of the log
  uint64_t sequence = 0;  // of the last event known
  uint64_t offset = 0;    // > 0: amid the snapshot as of `sequence`, of which it has this many hashes
  bool operator==(const CachePosition&) const = default;
};

// Either events first_sequence…last_sequence of the log, those that cancel each other left out: take out `removed`,
// then put in `added`. Or (part of) a snapshot: `added` replaces everything known, as of last_sequence.
struct CacheDelta {
  uint64_t epoch = 0;
  uint64_t first_sequence = 0;
  uint64_t last_sequence = 0;
  bool snapshot = false;
  uint64_t offset = 0;         // of a snapshot: hashes before these
  uint64_t snapshot_size = 0;  // of a snapshot: all of its hashes
  bool more = false;           // read again at once: something is left
  std::vector<uint64_t> added;
  std::vector<uint64_t> removed;

  // Where a reader is once it applied this.
  CachePosition End() const {
    const uint64_t have = offset + added.size();
    return {epoch, last_sequence, snapshot && have < snapshot_size ? have : 0};
  }
};

class CacheEventLog {
 public:
  // max_events: kept for readers. expected_hashes: how many the set will hold, reserved at once. epoch: 0 = random.
  explicit CacheEventLog(size_t max_events, size_t expected_hashes = 0, uint64_t epoch = 0);

  // One batch: first `removed` left, then `added` came.
  void Append(std::span<const uint64_t> added, std::span<const uint64_t> removed) ABSL_LOCKS_EXCLUDED(mu_);
  // Forgets everything; readers start anew.
  void Reset() ABSL_LOCKS_EXCLUDED(mu_);

  // What the reader at `since` has to do next, at most max_hashes (> 0) events or hashes of it.
  CacheDelta Read(const CachePosition& since, size_t max_hashes) const ABSL_LOCKS_EXCLUDED(mu_);

  bool Contains(uint64_t hash) const ABSL_LOCKS_EXCLUDED(mu_);
  size_t size() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Snapshot {
    uint64_t sequence;
    std::vector<uint64_t> hashes;
  };
  // The number of an event is one more than that of the event before it; the first one's is 1.
  void Push(uint64_t hash, bool added) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether every event after `sequence` is still kept.
  bool Follows(uint64_t sequence) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_events_;
  mutable Mutex mu_;
  uint64_t epoch_ ABSL_GUARDED_BY(mu_);
  uint64_t last_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<uint64_t> event_hashes_ ABSL_GUARDED_BY(mu_);  // [max_events]; event n at n % max_events
  std::vector<uint8_t> event_added_ ABSL_GUARDED_BY(mu_);    // parallel
  absl::flat_hash_set<uint64_t> present_ ABSL_GUARDED_BY(mu_);
  // One that takes several reads: shared by all who start while the events since are kept, so that they do not send
  // each other back to the start. One that fits into a read is always of now, and not kept.
  mutable std::shared_ptr<const Snapshot> snapshot_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin

#endif  // DUNLIN_BASE_CACHE_EVENT_LOG_H_
