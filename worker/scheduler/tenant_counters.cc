#include "worker/scheduler/tenant_counters.h"

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::worker {

TenantCounters::TenantCounters(int32_t max_idle) : max_idle_(max_idle) { CHECK_GE(max_idle, 0); }

TenantId TenantCounters::Acquire(absl::string_view name) {
  if (const auto it = by_name_.find(name); it != by_name_.end()) {
    Tenant& known = tenants_[static_cast<size_t>(it->second)];
    if (known.users++ == 0) UnlinkIdle(it->second);
    return TenantId{it->second};
  }
  int32_t index = static_cast<int32_t>(tenants_.size());
  if (unused_.empty()) {
    tenants_.emplace_back();
  } else {
    index = unused_.back();
    unused_.pop_back();
  }
  Tenant& fresh = tenants_[static_cast<size_t>(index)];
  fresh.name.assign(name.data(), name.size());
  fresh.users = 1;
  by_name_.emplace(fresh.name, index);
  return TenantId{index};
}

void TenantCounters::Release(TenantId tenant) {
  Tenant& t = At(tenant);
  CHECK_GE(t.users, 1);
  if (--t.users > 0) return;
  CHECK_EQ(t.waiting, 0) << "tenant " << t.name;
  LinkIdle(static_cast<int32_t>(tenant));
  if (num_idle_ > max_idle_) Forget(oldest_idle_);
}

void TenantCounters::AddWaiting(TenantId tenant) {
  Tenant& t = At(tenant);
  CHECK_GE(t.users, 1);
  if (t.waiting > 0) {
    ++t.waiting;
    return;
  }
  t.counter = std::max(t.counter, Lift());
  t.waiting = 1;
  ++num_waiting_;
  if (t.in_heap) return;
  t.in_heap = true;
  heap_.emplace_back(t.counter, static_cast<int32_t>(tenant));
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

void TenantCounters::RemoveWaiting(TenantId tenant) {
  Tenant& t = At(tenant);
  CHECK_GE(t.waiting, 1);
  if (--t.waiting > 0) return;
  --num_waiting_;
  last_waited_ = static_cast<int32_t>(tenant);
}

void TenantCounters::ChargeInput(TenantId tenant, int32_t uncached_tokens, int32_t cached_tokens) {
  CHECK_GE(uncached_tokens, 0);
  CHECK_GE(cached_tokens, 0);
  At(tenant).counter += kUncachedInput * uncached_tokens + kCachedInput * cached_tokens;
}

double TenantCounters::Lift() {
  if (num_waiting_ == 0) {
    return last_waited_ < 0 ? forgotten_lift_ : tenants_[static_cast<size_t>(last_waited_)].counter;
  }
  for (;;) {
    CHECK(!heap_.empty());
    const auto [key, index] = heap_.front();
    Tenant& t = tenants_[static_cast<size_t>(index)];
    if (t.waiting > 0 && t.counter == key) return key;
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    if (t.waiting == 0) {
      t.in_heap = false;
      heap_.pop_back();
    } else {
      heap_.back().first = t.counter;
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
  }
}

double TenantCounters::spread() const {
  if (num_waiting_ < 2) return 0;
  double lowest = 0, highest = 0;
  bool any = false;
  for (const auto& [key, index] : heap_) {
    const Tenant& t = tenants_[static_cast<size_t>(index)];
    if (t.waiting == 0) continue;
    lowest = any ? std::min(lowest, t.counter) : t.counter;
    highest = any ? std::max(highest, t.counter) : t.counter;
    any = true;
  }
  return highest - lowest;
}

void TenantCounters::LinkIdle(int32_t index) {
  Tenant& t = tenants_[static_cast<size_t>(index)];
  t.newer = -1;
  t.older = newest_idle_;
  if (newest_idle_ >= 0) tenants_[static_cast<size_t>(newest_idle_)].newer = index;
  newest_idle_ = index;
  if (oldest_idle_ < 0) oldest_idle_ = index;
  ++num_idle_;
}

void TenantCounters::UnlinkIdle(int32_t index) {
  Tenant& t = tenants_[static_cast<size_t>(index)];
  (t.newer >= 0 ? tenants_[static_cast<size_t>(t.newer)].older : newest_idle_) = t.older;
  (t.older >= 0 ? tenants_[static_cast<size_t>(t.older)].newer : oldest_idle_) = t.newer;
  t.newer = t.older = -1;
  --num_idle_;
}

void TenantCounters::Forget(int32_t index) {
  UnlinkIdle(index);
  Tenant& t = tenants_[static_cast<size_t>(index)];
  if (last_waited_ == index) {
    forgotten_lift_ = t.counter;
    last_waited_ = -1;
  }
  if (t.in_heap) {  // its index is about to mean somebody else, whose counter may be lower than this entry's key
    std::erase_if(heap_, [index](const auto& entry) { return entry.second == index; });
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  by_name_.erase(t.name);
  t = Tenant{};
  unused_.push_back(index);
}

std::string TenantCounters::CheckInvariants() const {
  int32_t waiting = 0, idle = 0, in_heap = 0;
  for (const auto& [name, index] : by_name_) {
    const Tenant& t = tenants_[static_cast<size_t>(index)];
    if (t.name != name) return absl::StrCat("tenants: ", name, " is found under ", t.name);
    if (t.waiting > t.users) return absl::StrCat("tenants: ", name, ": ", t.waiting, " wait of ", t.users);
    waiting += t.waiting > 0 ? 1 : 0;
    idle += t.users == 0 ? 1 : 0;
    in_heap += t.in_heap ? 1 : 0;
    if (t.waiting > 0 && !t.in_heap) return absl::StrCat("tenants: ", name, " waits outside the heap");
  }
  if (waiting != num_waiting_) return absl::StrCat("tenants: ", waiting, " wait, ", num_waiting_, " counted");
  if (idle != num_idle_ || idle > max_idle_) {
    return absl::StrCat("tenants: ", idle, " idle, ", num_idle_, " counted, ", max_idle_, " allowed");
  }
  if (in_heap != static_cast<int32_t>(heap_.size())) {
    return absl::StrCat("tenants: ", in_heap, " in a heap of ", heap_.size());
  }
  for (const auto& [key, index] : heap_) {
    const Tenant& t = tenants_[static_cast<size_t>(index)];
    if (key > t.counter) return absl::StrCat("tenants: ", t.name, " went back from ", key, " to ", t.counter);
  }
  return "";
}

}  // namespace dunlin::worker
