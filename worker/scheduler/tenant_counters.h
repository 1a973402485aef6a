// Fairness across tenants: one virtual counter of weighted tokens per tenant. Who waits with the lowest counter is
// served next, so tenants that always have something waiting get equal service whatever the size of their requests, and
// nobody is held back while the device has room (work-conserving: a single tenant never notices).
// Weights: an uncached prompt token 1, a cached one 0.1, an output token 2.
// A tenant that had nothing waiting and now has is lifted to the lowest counter of those that wait (or of the one that
// waited last): it cannot save up service while away. For two tenants with requests waiting throughout, the difference
// of their service is at most 2 * max(weight of the longest prompt, weight of one step's output) plus what is running.
// Thread-safety: none needed (engine thread).  Owns: names and counters of the tenants.  Cost: Charge* and counter()
// O(1) without hashing; Acquire hashes the name; AddWaiting O(log tenants) amortised; spread() O(waiting tenants).
// Memory: `max_idle` tenants without open requests are remembered, the longest idle is forgotten (and would come back
// at the lift); those with open requests are bounded by their number. Source: VTC, arXiv 2401.00588, algorithm 2.
#ifndef DUNLIN_WORKER_SCHEDULER_TENANT_COUNTERS_H_
#define DUNLIN_WORKER_SCHEDULER_TENANT_COUNTERS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace dunlin::worker {

enum class TenantId : int32_t {};  // valid between Acquire and Release

class TenantCounters {
 public:
  static constexpr double kUncachedInput = 1, kCachedInput = 0.1, kOutput = 2;

  explicit TenantCounters(int32_t max_idle = 1024);

  // Once per request from arrival to end; each Acquire is matched by one Release.
  TenantId Acquire(absl::string_view name);
  void Release(TenantId tenant);

  // A request of the tenant starts or stops waiting for admission (AdmissionQueue calls these).
  void AddWaiting(TenantId tenant);
  void RemoveWaiting(TenantId tenant);

  // At admission. Not when a preempted request comes back: recomputing was not its tenant's wish.
  void ChargeInput(TenantId tenant, int32_t uncached_tokens, int32_t cached_tokens);
  // As tokens are drawn.
  void ChargeOutput(TenantId tenant, int32_t tokens) { At(tenant).counter += kOutput * tokens; }

  double counter(TenantId tenant) const { return At(tenant).counter; }
  // The largest difference between two tenants that wait; 0 with fewer than two.
  double spread() const;
  int32_t num_tenants() const { return static_cast<int32_t>(by_name_.size()); }
  // "" or what is wrong.
  std::string CheckInvariants() const;

 private:
  struct Tenant {
    std::string name;
    double counter = 0;
    int32_t users = 0;
    int32_t waiting = 0;
    bool in_heap = false;
    int32_t newer = -1, older = -1;  // neighbours among the idle ones
  };
  Tenant& At(TenantId t) { return tenants_[static_cast<size_t>(t)]; }
  const Tenant& At(TenantId t) const { return tenants_[static_cast<size_t>(t)]; }
  double Lift();  // what a tenant that starts to wait has at least
  void LinkIdle(int32_t index);
  void UnlinkIdle(int32_t index);
  void Forget(int32_t index);

  const int32_t max_idle_;
  std::vector<Tenant> tenants_;
  std::vector<int32_t> unused_;  // indexes of tenants_
  absl::flat_hash_map<std::string, int32_t> by_name_;
  // Min-heap of (counter when it was put there, tenant) with every waiting tenant in it; counters only grow, so a stale
  // top is put right when it is looked at.
  std::vector<std::pair<double, int32_t>> heap_;
  int32_t num_waiting_ = 0;   // tenants
  int32_t last_waited_ = -1;  // the tenant that stopped waiting last; -1: forgotten since, with this counter:
  double forgotten_lift_ = 0;
  int32_t newest_idle_ = -1, oldest_idle_ = -1, num_idle_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_TENANT_COUNTERS_H_
