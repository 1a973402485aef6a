#include "worker/scheduler/admission_queue.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::worker {
namespace {

constexpr int32_t kExhausted = std::numeric_limits<int32_t>::max();

}  // namespace

// The waiting sequences of one tenant and priority; never empty.
struct AdmissionQueue::Lane {
  Class* owner;
  TenantId tenant;
  std::set<Place> places;
  int32_t set_back = 0;  // of its sequences skipped in this round: after one, the other lanes come first
  double counter = 0;    // the tenant's when the lane took its place in `order`; never above the present one
  uint64_t turn = 0;     // of equal counters, the lane that was served last comes last

  struct Before {
    bool operator()(const Lane* a, const Lane* b) const {
      return std::tie(a->set_back, a->counter, a->turn) < std::tie(b->set_back, b->counter, b->turn);
    }
  };
};

struct AdmissionQueue::Class {
  std::set<Place> preempted;
  std::set<Lane*, Lane::Before> order;
  absl::flat_hash_map<int32_t, std::unique_ptr<Lane>> lanes;  // by tenant
};

AdmissionQueue::AdmissionQueue(const AdmissionLimits& limits, TenantCounters* counters)
    : limits_(limits), counters_(counters) {
  CHECK_GE(limits.lookahead, 1);
  CHECK_GE(limits.max_passed, 0);
  CHECK_GE(limits.prefix_window, 1);
  looks_.reserve(2 * static_cast<size_t>(limits.lookahead));
  set_back_.reserve(static_cast<size_t>(limits.lookahead));
}

AdmissionQueue::~AdmissionQueue() = default;

AdmissionQueue::Place AdmissionQueue::PlaceOf(int32_t slot) const {
  const Slot& s = slots_[static_cast<size_t>(slot)];
  const absl::Time latest = s.entry.arrival + limits_.patience;
  return {s.entry.preempted ? s.entry.arrival : std::min(s.entry.deadline, latest), s.number, slot};
}

WaitingId AdmissionQueue::Add(const WaitingEntry& entry) {
  CHECK(!in_round_);
  int32_t slot = static_cast<int32_t>(slots_.size());
  if (unused_.empty()) {
    slots_.emplace_back();
  } else {
    slot = unused_.back();
    unused_.pop_back();
  }
  At(slot) = Slot{entry, ++num_added_, -1, true};
  counters_->AddWaiting(entry.tenant);
  std::unique_ptr<Class>& owner = classes_[entry.priority];
  if (owner == nullptr) owner = std::make_unique<Class>();
  Class& c = *owner;
  if (entry.preempted) {
    c.preempted.insert(PlaceOf(slot));
  } else {
    std::unique_ptr<Lane>& lane = c.lanes[static_cast<int32_t>(entry.tenant)];
    if (lane == nullptr) {
      lane = std::make_unique<Lane>();
      lane->owner = &c;
      lane->tenant = entry.tenant;
      lane->counter = counters_->counter(entry.tenant);
      lane->turn = ++num_turns_;
      c.order.insert(lane.get());
    }
    lane->places.insert(PlaceOf(slot));
  }
  ++size_;
  return WaitingId{slot};
}

void AdmissionQueue::Unlink(int32_t slot) {
  Slot& s = At(slot);
  CHECK(s.open) << slot;
  Class& c = *classes_.at(s.entry.priority);
  if (s.entry.preempted) {
    CHECK_EQ(c.preempted.erase(PlaceOf(slot)), size_t{1});
  } else {
    const auto found = c.lanes.find(static_cast<int32_t>(s.entry.tenant));
    Lane* const lane = found->second.get();
    CHECK_EQ(lane->places.erase(PlaceOf(slot)), size_t{1});
    if (lane->places.empty()) {
      c.order.erase(lane);
      c.lanes.erase(found);
    } else if (in_round_) {  // it was served
      auto node = c.order.extract(lane);
      lane->turn = ++num_turns_;
      c.order.insert(std::move(node));
    }
  }
  counters_->RemoveWaiting(s.entry.tenant);
  s.open = false;
  unused_.push_back(slot);
  --size_;
}

void AdmissionQueue::DropIfEmpty(int32_t priority) {
  const auto c = classes_.find(priority);
  if (c != classes_.end() && c->second->preempted.empty() && c->second->lanes.empty()) classes_.erase(c);
}

void AdmissionQueue::Remove(WaitingId id) {
  CHECK(!in_round_);
  const auto slot = static_cast<int32_t>(id);
  Unlink(slot);
  DropIfEmpty(At(slot).entry.priority);
}

void AdmissionQueue::BeginRound() {
  CHECK(!in_round_);
  in_round_ = true;
  closed_ = false;
  num_considered_ = num_ahead_ = 0;
  events_ = last_taken_ = 0;
}

void AdmissionQueue::EndRound() {
  CHECK(in_round_);
  in_round_ = false;
  for (Lane* lane : set_back_) {
    auto node = lane->owner->order.extract(lane);
    lane->set_back = 0;
    lane->counter = counters_->counter(lane->tenant);
    lane->owner->order.insert(std::move(node));
  }
  set_back_.clear();
  for (const Look& look : looks_) {
    Slot& s = At(look.slot);
    s.look = -1;
    if (look.taken) {
      DropIfEmpty(s.entry.priority);
    } else if (look.considered > 0 && look.considered < last_taken_) {
      ++s.entry.times_passed;
    }
  }
  looks_.clear();
}

std::optional<WaitingId> AdmissionQueue::Next(int32_t free_pages, NeedOf need) {
  CHECK(in_round_);
  for (auto c = classes_.begin(); c != classes_.end() && !closed_; ++c) {
    if (!c->second->preempted.empty()) {
      Look* look = Consider(c->second->preempted.begin()->slot, need);
      if (look != nullptr && look->need.pages <= free_pages) return Take(look);
      closed_ = true;  // nobody passes it
      break;
    }
    while (Lane* lane = FirstLane(c->second.get())) {
      Look* first = nullptr;
      if (!FirstOf(lane, need, &first)) continue;
      if (first == nullptr) {
        closed_ = true;
        break;
      }
      if (first->need.pages <= free_pages) return Take(LongestPrefix(lane, first, free_pages, need));
      if (At(first->slot).entry.times_passed >= limits_.max_passed) {
        closed_ = true;  // the pages that come free gather for it
        break;
      }
      first->skipped = true;
      SetBack(lane, lane->set_back + 1);
    }
  }
  return std::nullopt;
}

// The lane that is served next; nullptr when every one is exhausted. Puts right the places of those whose tenants were
// charged since: counters only grow, so the first one whose place is right is the first.
AdmissionQueue::Lane* AdmissionQueue::FirstLane(Class* c) {
  while (!c->order.empty()) {
    Lane* lane = *c->order.begin();
    if (lane->set_back == kExhausted) return nullptr;
    const double counter = counters_->counter(lane->tenant);
    if (lane->counter == counter) return lane;
    auto node = c->order.extract(c->order.begin());
    lane->counter = counter;
    c->order.insert(std::move(node));
  }
  return nullptr;
}

void AdmissionQueue::SetBack(Lane* lane, int32_t set_back) {
  if (lane->set_back == 0) set_back_.push_back(lane);
  auto node = lane->owner->order.extract(lane);
  lane->set_back = set_back;
  lane->owner->order.insert(std::move(node));
}

// The first of the lane that was not skipped in this round; nullptr when the round may not look at it any more. False:
// there is none, and the lane is set back behind all others.
bool AdmissionQueue::FirstOf(Lane* lane, NeedOf need, Look** first) {
  for (const Place& place : lane->places) {
    const int32_t look = At(place.slot).look;
    if (look >= 0 && looks_[static_cast<size_t>(look)].skipped) continue;
    *first = Consider(place.slot, need);
    return true;
  }
  SetBack(lane, kExhausted);
  return false;
}

AdmissionQueue::Look* AdmissionQueue::Consider(int32_t slot, NeedOf need) {
  const int32_t known = At(slot).look;
  if (known >= 0 && looks_[static_cast<size_t>(known)].considered > 0) return &looks_[static_cast<size_t>(known)];
  if (num_considered_ == limits_.lookahead) return nullptr;
  ++num_considered_;
  Look* look = LookAt(slot, need);
  look->considered = ++events_;
  return look;
}

AdmissionQueue::Look* AdmissionQueue::LookAhead(int32_t slot, NeedOf need) {
  if (At(slot).look < 0 && num_ahead_++ >= limits_.lookahead) return nullptr;
  return LookAt(slot, need);
}

AdmissionQueue::Look* AdmissionQueue::LookAt(int32_t slot, NeedOf need) {
  Slot& s = At(slot);
  if (s.look < 0) {
    s.look = static_cast<int32_t>(looks_.size());
    looks_.push_back({slot, need(WaitingId{slot})});  // never moves: there is room for all looks of a round
  }
  return &looks_[static_cast<size_t>(s.look)];
}

// Of the lane's first ones that fit, from `first` on, the one with most cached tokens.
AdmissionQueue::Look* AdmissionQueue::LongestPrefix(Lane* lane, Look* first, int32_t free_pages, NeedOf need) {
  Look* best = first;
  int seen = 0;
  for (auto place = lane->places.find(PlaceOf(first->slot)); place != lane->places.end(); ++place) {
    if (++seen > limits_.prefix_window) break;
    Look* look = LookAhead(place->slot, need);
    if (look == nullptr) break;
    if (look->skipped) continue;
    if (look->need.pages <= free_pages && look->need.cached_tokens > best->need.cached_tokens) best = look;
    if (At(look->slot).entry.times_passed >= limits_.max_prefix_passed) break;
  }
  if (best == first) return first;
  for (auto place = lane->places.find(PlaceOf(first->slot)); place->slot != best->slot; ++place) {
    Look* look = LookAt(place->slot, need);
    if (look->considered == 0) look->considered = ++events_;
  }
  return best;
}

WaitingId AdmissionQueue::Take(Look* look) {
  look->taken = true;
  last_taken_ = ++events_;
  const int32_t slot = look->slot;
  Unlink(slot);
  return WaitingId{slot};
}

int32_t AdmissionQueue::times_passed(WaitingId id) const { return slots_[static_cast<size_t>(id)].entry.times_passed; }

std::string AdmissionQueue::CheckInvariants() const {
  int32_t found = 0;
  for (const auto& [priority, owned] : classes_) {
    const Class& c = *owned;
    if (c.preempted.empty() && c.lanes.empty()) return absl::StrCat("admission: priority ", priority, " is empty");
    if (c.order.size() != c.lanes.size()) {
      return absl::StrCat("admission: ", c.order.size(), " of ", c.lanes.size(), " lanes are in order");
    }
    found += static_cast<int32_t>(c.preempted.size());
    for (const auto& [tenant, lane] : c.lanes) {
      if (lane->places.empty()) return absl::StrCat("admission: the lane of tenant ", tenant, " is empty");
      if (lane->counter > counters_->counter(lane->tenant)) {
        return absl::StrCat("admission: tenant ", tenant, " went back from ", lane->counter, " to ",
                            counters_->counter(lane->tenant));
      }
      found += static_cast<int32_t>(lane->places.size());
    }
  }
  if (found != size_) return absl::StrCat("admission: ", found, " sequences are in order, ", size_, " wait");
  const auto open = std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.open; });
  if (open != size_) return absl::StrCat("admission: ", open, " slots are open, ", size_, " wait");
  return "";
}

}  // namespace dunlin::worker
