#include "base/cache_event_log.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/check.h"

namespace dunlin {
namespace {

uint64_t RandomEpoch() {
  std::random_device device;
  // Never 0, which says that a reader follows nothing.
  return ((uint64_t{device()} << 32) | device()) | 1;
}

struct Event {
  uint64_t hash;
  bool added;
};

// What is left of a run of events once those that cancel each other are gone.
void Merge(std::span<const Event> events, CacheDelta* delta) {
  absl::flat_hash_set<uint64_t> added;
  absl::flat_hash_set<uint64_t> removed;
  for (const Event& e : events) {
    absl::flat_hash_set<uint64_t>& undone = e.added ? removed : added;
    absl::flat_hash_set<uint64_t>& done = e.added ? added : removed;
    if (undone.erase(e.hash) == 0) done.insert(e.hash);
  }
  delta->added.assign(added.begin(), added.end());
  delta->removed.assign(removed.begin(), removed.end());
}

}  // namespace

CacheEventLog::CacheEventLog(size_t max_events, size_t expected_hashes, uint64_t epoch)
    : max_events_(max_events),
      epoch_(epoch != 0 ? epoch : RandomEpoch()),
      event_hashes_(max_events),
      event_added_(max_events) {
  CHECK_GT(max_events, 0u);
  present_.reserve(expected_hashes);
}

void CacheEventLog::Push(uint64_t hash, bool added) {
  const size_t at = ++last_sequence_ % max_events_;
  event_hashes_[at] = hash;
  event_added_[at] = added ? 1 : 0;
}

bool CacheEventLog::Follows(uint64_t sequence) const {
  return sequence <= last_sequence_ && last_sequence_ - sequence <= max_events_;
}

void CacheEventLog::Append(std::span<const uint64_t> added, std::span<const uint64_t> removed) {
  std::shared_ptr<const Snapshot> stale;  // freed outside the lock
  MutexLock lock(&mu_);
  for (const uint64_t hash : removed) {
    if (present_.erase(hash) > 0) Push(hash, false);
  }
  for (const uint64_t hash : added) {
    if (present_.insert(hash).second) Push(hash, true);
  }
  if (snapshot_ != nullptr && !Follows(snapshot_->sequence)) stale = std::move(snapshot_);
}

void CacheEventLog::Reset() {
  MutexLock lock(&mu_);
  epoch_ = RandomEpoch();
  last_sequence_ = 0;
  present_.clear();
  snapshot_.reset();
}

CacheDelta CacheEventLog::Read(const CachePosition& since, size_t max_hashes) const {
  CHECK_GT(max_hashes, 0u);
  CacheDelta delta;
  std::vector<Event> events;
  std::shared_ptr<const Snapshot> snapshot;
  {
    MutexLock lock(&mu_);
    delta.epoch = epoch_;
    const bool known = since.epoch == epoch_;
    if (known && since.offset == 0 && Follows(since.sequence)) {
      delta.first_sequence = since.sequence + 1;
      delta.last_sequence = since.sequence + std::min<uint64_t>(last_sequence_ - since.sequence, max_hashes);
      delta.more = delta.last_sequence < last_sequence_;
      events.reserve(delta.last_sequence - since.sequence);
      for (uint64_t n = delta.first_sequence; n <= delta.last_sequence; ++n) {
        events.push_back({event_hashes_[n % max_events_], event_added_[n % max_events_] != 0});
      }
    } else {
      const bool continues = known && since.offset > 0 && snapshot_ != nullptr &&
                             since.sequence == snapshot_->sequence && since.offset < snapshot_->hashes.size();
      if (continues) delta.offset = since.offset;
      snapshot = continues || present_.size() > max_hashes ? snapshot_ : nullptr;
      if (snapshot == nullptr) {
        auto fresh = std::make_shared<Snapshot>();
        fresh->sequence = last_sequence_;
        fresh->hashes.assign(present_.begin(), present_.end());
        snapshot = std::move(fresh);
        if (present_.size() > max_hashes) snapshot_ = snapshot;
      }
      delta.more = last_sequence_ > snapshot->sequence;
    }
  }
  if (snapshot == nullptr) {
    Merge(events, &delta);
    return delta;
  }
  delta.snapshot = true;
  delta.first_sequence = delta.last_sequence = snapshot->sequence;
  delta.snapshot_size = snapshot->hashes.size();
  const auto begin = snapshot->hashes.begin() + static_cast<std::ptrdiff_t>(delta.offset);
  const size_t count = std::min<size_t>(max_hashes, snapshot->hashes.size() - delta.offset);
  delta.added.assign(begin, begin + static_cast<std::ptrdiff_t>(count));
  delta.more |= delta.End().offset != 0;
  return delta;
}

bool CacheEventLog::Contains(uint64_t hash) const {
  MutexLock lock(&mu_);
  return present_.contains(hash);
}

size_t CacheEventLog::size() const {
  MutexLock lock(&mu_);
  return present_.size();
}

}  // namespace dunlin
