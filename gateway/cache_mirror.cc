#include "gateway/cache_mirror.h"

#include <algorithm>
#include <span>

namespace dunlin::gateway {
namespace {

std::span<const uint64_t> Span(const google::protobuf::RepeatedField<uint64_t>& hashes) {
  return {hashes.data(), static_cast<size_t>(hashes.size())};
}

}  // namespace

bool CacheMirror::Fits(const v1::CacheDelta& delta) const {
  if (!delta.snapshot()) {
    return delta.epoch() == position_.epoch && position_.offset == 0 &&
           delta.first_sequence() == position_.sequence + 1 && delta.last_sequence() + 1 >= delta.first_sequence();
  }
  const uint64_t end = delta.offset() + static_cast<uint64_t>(delta.added_size());
  // A part that brings nothing and is not the last would be asked for again without end.
  if (end > delta.snapshot_size() || (delta.added().empty() && end < delta.snapshot_size())) return false;
  if (delta.offset() == 0) return true;
  return delta.epoch() == position_.epoch && delta.last_sequence() == position_.sequence &&
         delta.offset() == position_.offset;
}

CacheMirror::Outcome CacheMirror::Apply(const v1::CacheDelta& delta) {
  if (!Fits(delta)) {
    position_ = {};
    log_.Reset();
    return Outcome::kGap;
  }
  if (delta.snapshot() && delta.offset() == 0) log_.Reset();
  log_.Append({}, Span(delta.removed()));
  const size_t room = max_hashes_ - std::min(max_hashes_, log_.size());
  const std::span<const uint64_t> added = Span(delta.added());
  log_.Append(added.first(std::min(room, added.size())), {});
  const uint64_t have = delta.offset() + static_cast<uint64_t>(delta.added_size());
  position_ = {delta.epoch(), delta.last_sequence(), delta.snapshot() && have < delta.snapshot_size() ? have : 0};
  return Outcome::kApplied;
}

}  // namespace dunlin::gateway
