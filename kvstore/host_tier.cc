#include "kvstore/host_tier.h"

#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvstore/snapshot.h"

namespace dunlin::kv {

HostTier::HostTier(int32_t num_slots, EvictionPolicy policy) : slots_(static_cast<size_t>(num_slots)), queue_(policy) {
  for (int32_t i = num_slots - 1; i >= 0; --i) {
    slots_[I(i)].next = free_;
    free_ = i;
  }
}

int32_t HostTier::Victim(int weight, uint64_t step) const {
  const int32_t weakest = queue_.Weakest();
  if (weakest < 0 || slots_[I(weakest)].guarded == step) return -1;
  return queue_.Priority(slots_[I(weakest)]) <= queue_.PriorityOf(weight) ? weakest : -1;
}

void HostTier::Put(int32_t slot, int32_t node, int weight, size_t level) {
  CHECK_EQ(slot, free_);
  CHECK_GE(node, 0);
  Slot& s = slots_[I(slot)];
  free_ = s.next;
  s.node = node;
  s.guarded = s.restored = 0;
  queue_.Insert(slots_.data(), slot, weight, level);
}

void HostTier::Renew(int32_t slot, int weight) {
  CHECK_GE(slots_[I(slot)].node, 0);
  slots_[I(slot)].restored = 0;
  queue_.Remove(slots_.data(), slot);
  queue_.Insert(slots_.data(), slot, weight, slots_[I(slot)].level);
}

void HostTier::Drop(int32_t slot, bool evicted) {
  Slot& s = slots_[I(slot)];
  CHECK_GE(s.node, 0);
  if (evicted) queue_.AgeTo(s);
  queue_.Remove(slots_.data(), slot);
  s.node = -1;
  s.next = free_;
  free_ = slot;
}

std::string HostTier::CheckInvariants() const {
  int32_t used = 0, free = 0;
  for (const Slot& s : slots_) used += s.node >= 0 ? 1 : 0;
  for (int32_t s = free_; s >= 0 && free <= num_slots(); s = slots_[I(s)].next) {
    if (slots_[I(s)].node >= 0) return absl::StrCat("host: slot ", s, " is free and has node ", slots_[I(s)].node);
    ++free;
  }
  if (!queue_.BitsAgree()) return "host: the eviction queue's bits do not tell which lists have slots";
  const std::vector<int32_t> order = EvictionOrder();
  std::vector<bool> seen(slots_.size(), false);
  for (const int32_t s : order) {
    if (slots_[I(s)].node < 0 || seen[I(s)]) return absl::StrCat("host: slot ", s, " is queued wrongly");
    seen[I(s)] = true;
  }
  if (used + free != num_slots() || used != size() || static_cast<int32_t>(order.size()) != used) {
    return absl::StrCat("host: ", used, " slots used, ", free, " free of ", num_slots(), ", ", order.size(),
                        " queued, ", size(), " counted");
  }
  return "";
}

void HostTier::AppendSnapshot(std::string* out) const {
  for (const Slot& s : slots_) {
    for (const uint64_t v :
         {static_cast<uint64_t>(s.prev), static_cast<uint64_t>(s.next), static_cast<uint64_t>(s.node), uint64_t{s.rank},
          uint64_t{s.level}, s.guarded, s.restored}) {
      AppendValue(v, out);
    }
  }
  for (const int32_t s : EvictionOrder()) AppendValue(s, out);
  AppendValue(free_, out);
  AppendValue(queue_.clock(), out);
}

}  // namespace dunlin::kv
