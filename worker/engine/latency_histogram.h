// Durations in bounded memory: log-linear buckets, 8 per doubling, from 1 us to over two hours; a percentile is at
// most 12.5 % above the true one, never below it.
// Thread-safety: none.  Owns: 1 KiB inside itself.  Cost: O(1) to add.  Source: ours (the idea of HdrHistogram).
#ifndef DUNLIN_WORKER_ENGINE_LATENCY_HISTOGRAM_H_
#define DUNLIN_WORKER_ENGINE_LATENCY_HISTOGRAM_H_

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace dunlin::worker {

class LatencyHistogram {
 public:
  void Add(absl::Duration d) {
    ++buckets_[BucketOf(absl::ToInt64Microseconds(d))];
    ++count_;
    max_ = std::max(max_, d);
  }
  uint64_t count() const { return count_; }
  absl::Duration max() const { return max_; }

  // The smallest bucket's upper end that at least `quantile` of the values do not exceed; never above max(). 0 when
  // empty.
  absl::Duration Percentile(double quantile) const {
    uint64_t seen = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i];
      if (seen > 0 && static_cast<double>(seen) >= quantile * static_cast<double>(count_)) {
        return std::min(max_, absl::Microseconds(UpperEnd(i)));
      }
    }
    return max_;
  }

 private:
  static constexpr int kSubBits = 3;
  static constexpr size_t kBuckets = 256;  // the last one takes everything from 2^33 us on

  // Below 2^kSubBits one bucket per microsecond; above, kSubBits bits after the leading one choose the bucket.
  static size_t BucketOf(int64_t us) {
    const auto v = static_cast<uint64_t>(std::max<int64_t>(us, 0));
    if (v < (1u << kSubBits)) return static_cast<size_t>(v);
    const int shift = static_cast<int>(std::bit_width(v)) - 1 - kSubBits;
    const size_t bucket = (static_cast<size_t>(shift) << kSubBits) + static_cast<size_t>(v >> shift);
    return std::min(bucket, kBuckets - 1);
  }
  static int64_t UpperEnd(size_t bucket) {
    if (bucket < (2u << kSubBits)) return static_cast<int64_t>(bucket) + 1;
    const size_t shift = (bucket >> kSubBits) - 1;
    const auto mantissa = static_cast<int64_t>((bucket & ((1u << kSubBits) - 1)) + (1u << kSubBits));
    return (mantissa + 1) << shift;
  }

  std::array<uint32_t, kBuckets> buckets_{};
  uint64_t count_ = 0;
  absl::Duration max_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_LATENCY_HISTOGRAM_H_
