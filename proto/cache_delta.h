// A cache delta (base/cache_event_log.h) as a message. Thread-safety: pure function.  Cost: linear in its hashes.
#ifndef DUNLIN_PROTO_CACHE_DELTA_H_
#define DUNLIN_PROTO_CACHE_DELTA_H_

#include "base/cache_event_log.h"
#include "dunlin/v1/control.pb.h"

namespace dunlin {

inline v1::CacheDelta ToProto(const CacheDelta& delta) {
  v1::CacheDelta message;
  message.set_epoch(delta.epoch);
  message.set_first_sequence(delta.first_sequence);
  message.set_last_sequence(delta.last_sequence);
  message.set_snapshot(delta.snapshot);
  message.set_offset(delta.offset);
  message.set_snapshot_size(delta.snapshot_size);
  message.set_more(delta.more);
  message.mutable_added()->Add(delta.added.begin(), delta.added.end());
  message.mutable_removed()->Add(delta.removed.begin(), delta.removed.end());
  return message;
}

}  // namespace dunlin

#endif  // DUNLIN_PROTO_CACHE_DELTA_H_
