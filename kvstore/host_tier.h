// The slots of the host tier as ids: which node's page lies in which whole-page record. The bytes belong to the runner.
// A record enters when its page is evicted from the device and stays when the page comes back, so that evicting the
// page again costs no second transfer; it goes when a more valuable one needs the slot, by the same policy as pages
// (EvictionQueue). Evicting the page again renews the record, so leaf-first holds here too: a node always enters after
// its children. Records that the current step brings back are guarded until its end.
// Thread-safety: engine thread only.  Owns: the slots' state, allocated by the constructor.  Cost: O(1), no allocation.
// Source: ours.
#ifndef DUNLIN_KVSTORE_HOST_TIER_H_
#define DUNLIN_KVSTORE_HOST_TIER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvstore/eviction_queue.h"

namespace dunlin::kv {

class HostTier {
 public:
  HostTier(int32_t num_slots, EvictionPolicy policy);

  // A free slot, still free; -1: there is none.
  int32_t FreeSlot() const { return free_; }
  // The record to give up for one of this weight; -1: none is worth less, or it is guarded in `step`.
  int32_t Victim(int weight, uint64_t step) const;
  void Put(int32_t slot, int32_t node, int weight, size_t level);
  void Renew(int32_t slot, int weight);
  // evicted: for another record, so the rest age.
  void Drop(int32_t slot, bool evicted);

  void Guard(int32_t slot, uint64_t step) { slots_[I(slot)].guarded = step; }
  void MarkRestored(int32_t slot, uint64_t step) { slots_[I(slot)].restored = step; }
  // The record has been on its way back to the device since this step.
  bool restored_in(int32_t slot, uint64_t step) const { return slots_[I(slot)].restored == step; }

  int32_t node(int32_t slot) const { return slots_[I(slot)].node; }  // -1: free
  int32_t num_slots() const { return static_cast<int32_t>(slots_.size()); }
  int32_t size() const { return queue_.size(); }
  int32_t Weakest() const { return queue_.Weakest(); }
  std::vector<int32_t> EvictionOrder() const { return queue_.Order(slots_.data()); }  // slots

  std::string CheckInvariants() const;
  void AppendSnapshot(std::string* out) const;

 private:
  friend struct TestPeer;
  struct Slot {
    int32_t prev = -1, next = -1;  // in the eviction queue; of a free slot: next is the next free one
    int32_t node = -1;
    uint32_t rank = 0, level = 0;
    uint64_t guarded = 0, restored = 0;  // steps; 0: never
  };
  static constexpr size_t I(int32_t i) { return static_cast<size_t>(i); }

  std::vector<Slot> slots_;
  int32_t free_ = -1;
  EvictionQueue<Slot> queue_;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_HOST_TIER_H_
