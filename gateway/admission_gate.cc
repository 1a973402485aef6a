#include "gateway/admission_gate.h"

#include <utility>
#include <vector>

namespace dunlin::gateway {

Admission::Entry AdmissionGate::Enter(absl::Time deadline, std::function<void(absl::Status)> on_turn) {
  MutexLock lock(&mu_);
  Admission::Entry entry = admission_.Enter(deadline);
  if (entry.decision == Admission::Decision::kQueued) waiting_.emplace(entry.ticket, std::move(on_turn));
  return entry;
}

void AdmissionGate::Leave(AdmissionTicket ticket) {
  std::vector<std::pair<std::function<void(absl::Status)>, absl::Status>> calls;
  {
    MutexLock lock(&mu_);
    waiting_.erase(ticket);
    const Admission::Changes changes = admission_.Leave(ticket);
    const auto take = [&](AdmissionTicket moved, absl::Status status) {
      const auto it = waiting_.find(moved);
      if (it == waiting_.end()) return;
      calls.emplace_back(std::move(it->second), std::move(status));
      waiting_.erase(it);
    };
    for (const AdmissionTicket moved : changes.expired) {
      take(moved, absl::DeadlineExceededError("deadline passed in the queue"));
    }
    for (const AdmissionTicket moved : changes.admitted) take(moved, absl::OkStatus());
  }
  for (auto& [on_turn, status] : calls) on_turn(status);
}

AdmissionGate::Counts AdmissionGate::counts() const {
  MutexLock lock(&mu_);
  return {admission_.num_active(), admission_.num_queued()};
}

}  // namespace dunlin::gateway
