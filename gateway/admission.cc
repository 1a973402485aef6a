#include "gateway/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

constexpr double kMeanWeight = 0.1;  // of the newest stream
constexpr absl::Duration kMinRetry = absl::Milliseconds(100);

}  // namespace

absl::Duration Admission::EstimatedWait() const {
  // max_active streams end once per mean duration; a newcomer needs everyone before it and one more to end.
  const double turns =
      static_cast<double>(queue_.size() + 1) / static_cast<double>(std::max<size_t>(limits_.max_active, 1));
  return mean_stream_ * turns;
}

absl::Status Admission::QueueFull() const {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat("queue is full: ", queue_.size(), " requests wait (limit ", limits_.max_queued, ") behind ",
                   active_.size(), " active streams (limit ", limits_.max_active, ")"));
  AttachErrorInfo("QUEUE_FULL", {}, &status);
  AttachRetryInfo(std::max(EstimatedWait(), kMinRetry), &status);
  AttachQuotaFailure("gateway:queue", absl::StrCat("max_queued_requests = ", limits_.max_queued), &status);
  return status;
}

Admission::Entry Admission::Enter(absl::Time deadline) {
  const absl::Time now = clock_->Now();
  if (deadline <= now) return {.refusal = absl::DeadlineExceededError("deadline passed before admission")};
  const AdmissionTicket ticket{next_ticket_};
  if (active_.size() < limits_.max_active && queue_.empty()) {
    ++next_ticket_;
    active_.emplace(ticket, now);
    return {.decision = Decision::kAdmitted, .ticket = ticket, .refusal = absl::OkStatus()};
  }
  if (queue_.size() >= limits_.max_queued) return {.refusal = QueueFull()};
  if (const absl::Duration wait = EstimatedWait(); now + wait > deadline) {
    absl::Status status =
        absl::DeadlineExceededError(absl::StrCat("predicted wait in the queue ", absl::FormatDuration(wait),
                                                 " exceeds the time left ", absl::FormatDuration(deadline - now)));
    AttachErrorInfo("DEADLINE_PREDICTED", {}, &status);
    AttachRetryInfo(std::max(wait, kMinRetry), &status);
    return {.refusal = status};
  }
  ++next_ticket_;
  queue_.push_back({ticket, deadline});
  return {.decision = Decision::kQueued,
          .ticket = ticket,
          .queue_position = static_cast<uint32_t>(queue_.size() - 1),
          .refusal = absl::OkStatus()};
}

Admission::Changes Admission::Leave(AdmissionTicket ticket) {
  if (const auto it = active_.find(ticket); it != active_.end()) {
    const absl::Duration took = clock_->Now() - it->second;
    mean_stream_ = mean_stream_ == absl::ZeroDuration() ? took : mean_stream_ * (1 - kMeanWeight) + took * kMeanWeight;
    active_.erase(it);
  } else {
    const auto waiting =
        std::find_if(queue_.begin(), queue_.end(), [ticket](const Waiting& w) { return w.ticket == ticket; });
    if (waiting != queue_.end()) queue_.erase(waiting);
  }
  return Promote();
}

Admission::Changes Admission::SetLimits(const Limits& limits) {
  limits_ = limits;
  return Promote();
}

Admission::Changes Admission::Promote() {
  Changes changes;
  const absl::Time now = clock_->Now();
  while (!queue_.empty() && active_.size() < limits_.max_active) {
    const Waiting next = queue_.front();
    queue_.pop_front();
    if (next.deadline <= now) {
      changes.expired.push_back(next.ticket);
      continue;
    }
    active_.emplace(next.ticket, now);
    changes.admitted.push_back(next.ticket);
  }
  return changes;
}

}  // namespace dunlin::gateway
