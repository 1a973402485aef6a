// Bytes moved per phase and kind, and the bandwidth of the last seconds: arithmetic only.
// Thread-safety: none; the owner locks.  Units: bytes, bytes per second of device time.
// Cost: O(1) per step. Source: ours; the window is two half-windows, so old steps leave within one to two windows.
#ifndef DUNLIN_WORKER_BANDWIDTH_METER_H_
#define DUNLIN_WORKER_BANDWIDTH_METER_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "kernels/ops.h"

namespace dunlin::worker {

enum class Phase { kPrefill = 0, kDecode = 1 };
inline constexpr int kNumPhases = 2;

class BandwidthMeter {
 public:
  explicit BandwidthMeter(absl::Duration window = absl::Seconds(5)) : window_(window) {}

  // A step of prefill_rows + decode_rows > 0 rows; bytes and time are shared by rows, no byte is lost.
  void Add(int prefill_rows, int decode_rows, const kernels::Traffic& traffic, absl::Duration device_time,
           absl::Time now);

  const kernels::Traffic& total(Phase phase) const { return total_[static_cast<size_t>(phase)]; }
  // 0 when the phase had no step lately.
  double BytesPerSecond(Phase phase, absl::Time now) const;
  double BytesPerSecond(absl::Time now) const;  // of both phases

 private:
  struct Sums {
    std::array<double, kNumPhases> bytes{};
    std::array<double, kNumPhases> seconds{};
  };
  // The sums that count at `now`.
  Sums Recent(absl::Time now) const;

  absl::Duration window_;
  std::array<kernels::Traffic, kNumPhases> total_;
  absl::Time begun_ = absl::InfinitePast();  // of current_
  Sums current_;
  Sums previous_;  // of the window before it
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_BANDWIDTH_METER_H_
