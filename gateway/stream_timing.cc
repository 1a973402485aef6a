#include "gateway/stream_timing.h"

#include <algorithm>
#include <cmath>

#include "google/protobuf/duration.pb.h"

namespace dunlin::gateway {
namespace {

void Set(absl::Duration value, google::protobuf::Duration* out) {
  absl::Duration rest;
  out->set_seconds(absl::IDivDuration(value, absl::Seconds(1), &rest));
  out->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
}

absl::Duration Get(const google::protobuf::Duration& value) {
  return absl::Seconds(value.seconds()) + absl::Nanoseconds(value.nanos());
}

// sorted is not empty; the nearest-rank quantile.
absl::Duration Quantile(const std::vector<float>& sorted, double q) {
  const double rank = std::ceil(q * static_cast<double>(sorted.size()));
  const size_t index = static_cast<size_t>(std::max(rank, 1.0)) - 1;
  return absl::Seconds(static_cast<double>(sorted[std::min(index, sorted.size() - 1)]));
}

}  // namespace

StreamTiming::StreamTiming(const Clock* clock, StreamObserver* observer)
    : clock_(clock), observer_(observer), start_(clock->Now()) {}

void StreamTiming::OnPrompt(uint32_t num_tokens) {
  if (observer_ != nullptr) observer_->OnPromptTokens(num_tokens);
}

void StreamTiming::OnTokens(uint32_t index, uint32_t count) {
  if (count == 0) return;
  const absl::Time now = clock_->Now();
  if (!first_token_.has_value()) {
    first_token_ = now;
    if (observer_ != nullptr) observer_->OnFirstToken(now - start_);
  }
  last_token_ = now;
  if (observer_ != nullptr) observer_->OnGeneratedTokens(count);
  if (last_of_choice_.size() <= index) last_of_choice_.resize(index + 1);
  std::optional<absl::Time>& last = last_of_choice_[index];
  // Tokens that came together share the time since the one before them; the first of a choice has no gap.
  if (last.has_value()) {
    const absl::Duration gap = (now - *last) / static_cast<int64_t>(count);
    if (observer_ != nullptr) observer_->OnInterTokenLatency(gap, count);
    const size_t room = kMaxGaps - std::min(kMaxGaps, gap_seconds_.size());
    gap_seconds_.insert(gap_seconds_.end(), std::min<size_t>(count, room),
                        static_cast<float>(absl::ToDoubleSeconds(gap)));
  }
  last = now;
}

void StreamTiming::SetStalled(bool stalled) {
  if (stalled && !stalled_since_.has_value()) {
    stalled_since_ = clock_->Now();
  } else if (!stalled && stalled_since_.has_value()) {
    if (observer_ != nullptr) observer_->OnClientStall(clock_->Now() - *stalled_since_);
    stalled_since_.reset();
  }
}

void StreamTiming::Fill(bool from_worker, v1::Timing* timing) const {
  Set(Get(timing->queue()) + queued_, timing->mutable_queue());
  if (!first_token_.has_value()) return;
  Set(*first_token_ - start_, timing->mutable_ttft());
  if (from_worker) return;
  Set(last_token_ - *first_token_, timing->mutable_decode());
  if (gap_seconds_.empty()) return;
  std::vector<float> sorted = gap_seconds_;
  std::sort(sorted.begin(), sorted.end());
  Set(Quantile(sorted, 0.5), timing->mutable_itl_p50());
  Set(Quantile(sorted, 0.99), timing->mutable_itl_p99());
  Set(Quantile(sorted, 1.0), timing->mutable_itl_max());
}

}  // namespace dunlin::gateway
