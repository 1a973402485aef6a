// Whether a page should come back from the host tier or be computed again: whichever is faster by what was measured so
// far. Thread-safety: engine thread only.  Cost: O(1).  Source: ours (bytes / bandwidth < tokens / prefill rate).
#ifndef DUNLIN_WORKER_ENGINE_RESTORE_POLICY_H_
#define DUNLIN_WORKER_ENGINE_RESTORE_POLICY_H_

#include <cstdint>

#include "absl/time/time.h"
#include "worker/engine/engine.h"

namespace dunlin::worker {

class RestorePolicy {
 public:
  // bandwidth: bytes per second measured at start; 0 = unknown.
  RestorePolicy(HostRestore mode, uint64_t page_bytes, int page_tokens, double bandwidth)
      : mode_(mode),
        page_bytes_(static_cast<double>(page_bytes)),
        page_tokens_(page_tokens),
        bytes_per_second_(bandwidth) {}

  void OnRestored(int pages, absl::Duration wall) { Observe(pages * page_bytes_, wall, &bytes_per_second_); }
  // A step of `rows` rows, most of them prompt.
  void OnPrefill(int rows, absl::Duration wall) { Observe(rows, wall, &tokens_per_second_); }

  bool restores() const {
    if (mode_ != HostRestore::kWhenFaster) return mode_ == HostRestore::kAlways;
    // What was never measured is tried.
    if (bytes_per_second_ <= 0 || tokens_per_second_ <= 0) return true;
    return page_bytes_ / bytes_per_second_ < page_tokens_ / tokens_per_second_;
  }

 private:
  // Half of what it knows is about the last five observations.
  static void Observe(double amount, absl::Duration wall, double* rate) {
    constexpr double kWeight = 0.13;
    const double seconds = absl::ToDoubleSeconds(wall);
    if (amount <= 0 || seconds <= 0) return;
    *rate = *rate <= 0 ? amount / seconds : *rate + kWeight * (amount / seconds - *rate);
  }

  const HostRestore mode_;
  const double page_bytes_;
  const double page_tokens_;
  double bytes_per_second_;
  double tokens_per_second_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_RESTORE_POLICY_H_
