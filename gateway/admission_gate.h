// The lock and the call-backs around Admission: tells a waiting request when its turn has come.
// Thread-safety: thread-safe. Call-backs run on the thread of whoever left, outside the lock; they must not block.
// Errors: those of Admission.  Source: ours.
#ifndef DUNLIN_GATEWAY_ADMISSION_GATE_H_
#define DUNLIN_GATEWAY_ADMISSION_GATE_H_

#include <functional>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "gateway/admission.h"

namespace dunlin::gateway {

class AdmissionGate {
 public:
  AdmissionGate(const Admission::Limits& limits, const Clock* clock) : admission_(limits, clock) {}

  // on_turn is called once if the entry is queued: OK = admitted, DEADLINE_EXCEEDED = expired in the queue. Not called
  // after Leave returned, but it may be running then.
  Admission::Entry Enter(absl::Time deadline, std::function<void(absl::Status)> on_turn) ABSL_LOCKS_EXCLUDED(mu_);
  void Leave(AdmissionTicket ticket) ABSL_LOCKS_EXCLUDED(mu_);

  struct Counts {
    size_t active = 0;
    size_t queued = 0;
  };
  Counts counts() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  mutable Mutex mu_;
  Admission admission_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<AdmissionTicket, std::function<void(absl::Status)>> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_ADMISSION_GATE_H_
