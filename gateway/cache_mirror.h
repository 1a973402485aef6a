// What one worker has cached, as it reports it: deltas in, a set of prefix hashes out. Keeps a log of its own, so that
// watchers of this gateway are served from here.
// Thread-safety: Apply and position from one thread at a time; the rest thread-safe.
// Owns: the set and the log, bounded by max_hashes: what a larger cache has beyond that is left out, which costs hints.
// Errors: a delta that does not fit is Outcome::kGap: everything is forgotten and position() asks for a snapshot.
// Cost: about 100 ns per hash. Source: ours.
#ifndef DUNLIN_GATEWAY_CACHE_MIRROR_H_
#define DUNLIN_GATEWAY_CACHE_MIRROR_H_

#include <cstddef>
#include <cstdint>

#include "base/cache_event_log.h"
#include "dunlin/v1/control.pb.h"

namespace dunlin::gateway {

class CacheMirror {
 public:
  // A worker of a million pages of 16 tokens.
  static constexpr size_t kMaxHashes = size_t{1} << 20;
  enum class Outcome : uint8_t { kApplied, kGap };

  explicit CacheMirror(size_t max_hashes = kMaxHashes) : max_hashes_(max_hashes), log_(kMaxEvents) {}

  Outcome Apply(const v1::CacheDelta& delta);
  // Where the worker has to go on from.
  const CachePosition& position() const { return position_; }

  bool Contains(uint64_t hash) const { return log_.Contains(hash); }
  size_t size() const { return log_.size(); }
  // For watchers. A new snapshot of the worker is a new epoch of this log.
  const CacheEventLog& log() const { return log_; }

 private:
  static constexpr size_t kMaxEvents = size_t{1} << 14;

  bool Fits(const v1::CacheDelta& delta) const;

  const size_t max_hashes_;
  CachePosition position_;
  CacheEventLog log_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_CACHE_MIRROR_H_
