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
    std::vector<std::pair<AdmissionTicket, absl::Status>> moved;
    for (const AdmissionTicket expired : changes.expired) {
      moved.emplace_back(expired, absl::DeadlineExceededError("deadline passed in the queue"));
    }
    for (const AdmissionTicket admitted : changes.admitted) moved.emplace_back(admitted, absl::OkStatus());
    for (auto& [moved_ticket, status] : moved) {
      const auto it = waiting_.find(moved_ticket);
      if (it == waiting_.end()) continue;
      calls.emplace_back(std::move(it->second), std::move(status));
      waiting_.erase(it);
    }
  }
  for (auto& [on_turn, status] : calls) on_turn(status);
}

AdmissionGate::Counts AdmissionGate::counts() const {
  MutexLock lock(&mu_);
  return {admission_.num_active(), admission_.num_queued()};
}

}  // namespace dunlin::gateway
