#include "worker/scheduler/admission_queue.h"

#include "base/check.h"

namespace dunlin::worker {

AdmissionQueue::AdmissionQueue(const AdmissionLimits& limits, TenantCounters* counters)
    : limits_(limits), counters_(counters) {}
AdmissionQueue::~AdmissionQueue() = default;

WaitingId AdmissionQueue::Add(const WaitingEntry& entry) {
  counters_->AddWaiting(entry.tenant);
  ++size_;
  return WaitingId{0};
}
void AdmissionQueue::Remove(WaitingId) { --size_; }
void AdmissionQueue::BeginRound() {}
std::optional<WaitingId> AdmissionQueue::Next(int32_t, absl::FunctionRef<AdmissionNeed(WaitingId)>) {
  CHECK_GE(limits_.lookahead, 1);
  return std::nullopt;
}
void AdmissionQueue::EndRound() {}
int32_t AdmissionQueue::times_passed(WaitingId) const { return 0; }
std::string AdmissionQueue::CheckInvariants() const { return ""; }

}  // namespace dunlin::worker
