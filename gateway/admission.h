// Who may stream now, who waits, who is refused: at most max_active streams and a bounded first-in-first-out queue.
// Thread-safety: none; gateway/admission_gate.h locks it.  Borrows: the clock.  Pure otherwise: no threads, no gRPC.
// Errors (kRefused): kResourceExhausted with RetryInfo and QuotaFailure when the queue is full; kDeadlineExceeded when
// the deadline passed or, by the mean duration of past streams, will pass in the queue. Cost: O(1) per call, O(queue)
// to leave it from the middle.  Source: ours.
#ifndef DUNLIN_GATEWAY_ADMISSION_H_
#define DUNLIN_GATEWAY_ADMISSION_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace dunlin::gateway {

enum class AdmissionTicket : uint64_t {};

class Admission {
 public:
  struct Limits {
    size_t max_active = 256;
    size_t max_queued = 256;
  };
  enum class Decision : uint8_t { kAdmitted, kQueued, kRefused };
  struct Entry {
    Decision decision = Decision::kRefused;
    AdmissionTicket ticket{};     // valid unless refused
    uint32_t queue_position = 0;  // requests before this one; 0 when admitted
    absl::Status refusal;         // not OK exactly when refused
  };
  // Who moved because somebody left.
  struct Changes {
    std::vector<AdmissionTicket> admitted;  // in the order of arrival
    std::vector<AdmissionTicket> expired;   // their deadline passed in the queue; they hold nothing any more
  };

  Admission(const Limits& limits, const Clock* clock) : limits_(limits), clock_(clock) {}

  Entry Enter(absl::Time deadline);
  // The holder of `ticket` ended, whether active or queued. Unknown tickets (expired ones) change nothing.
  Changes Leave(AdmissionTicket ticket);
  // Live limits: raising them admits from the queue; lowering them never ends a stream.
  Changes SetLimits(const Limits& limits);

  size_t num_active() const { return active_.size(); }
  size_t num_queued() const { return queue_.size(); }
  // How long a newcomer would wait; zero while nothing is known.
  absl::Duration EstimatedWait() const;

 private:
  struct Waiting {
    AdmissionTicket ticket;
    absl::Time deadline;
  };
  Changes Promote();
  absl::Status QueueFull() const;

  Limits limits_;
  const Clock* const clock_;
  uint64_t next_ticket_ = 1;
  absl::flat_hash_map<AdmissionTicket, absl::Time> active_;  // since when
  std::deque<Waiting> queue_;
  absl::Duration mean_stream_;  // exponentially weighted over past streams; zero = none yet
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_ADMISSION_H_
