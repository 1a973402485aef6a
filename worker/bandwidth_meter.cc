#include "worker/bandwidth_meter.h"

#include "base/check.h"

namespace dunlin::worker {
namespace {

double Rate(double bytes, double seconds) { return seconds > 0 ? bytes / seconds : 0; }

double AllBytes(const kernels::Traffic& t) {
  return static_cast<double>(t.weight_bytes + t.kv_read_bytes + t.kv_write_bytes + t.activation_bytes);
}

}  // namespace

void BandwidthMeter::Add(int prefill_rows, int decode_rows, const kernels::Traffic& traffic, absl::Duration device_time,
                         absl::Time now) {
  CHECK_GE(prefill_rows, 0);
  CHECK_GE(decode_rows, 0);
  const int rows = prefill_rows + decode_rows;
  CHECK_GT(rows, 0);
  // The share is rounded down and the rest is the other's, so both always add up.
  const auto part = [&](uint64_t bytes) {
    return static_cast<uint64_t>(static_cast<unsigned __int128>(bytes) * static_cast<unsigned>(prefill_rows) /
                                 static_cast<unsigned>(rows));
  };
  const kernels::Traffic prefill = {part(traffic.weight_bytes), part(traffic.kv_read_bytes),
                                    part(traffic.kv_write_bytes), part(traffic.activation_bytes)};
  const kernels::Traffic decode = {
      traffic.weight_bytes - prefill.weight_bytes, traffic.kv_read_bytes - prefill.kv_read_bytes,
      traffic.kv_write_bytes - prefill.kv_write_bytes, traffic.activation_bytes - prefill.activation_bytes};
  if (now - begun_ >= window_) {
    previous_ = now - begun_ < 2 * window_ ? current_ : Sums();
    current_ = Sums();
    begun_ = now;
  }
  const double seconds = absl::ToDoubleSeconds(device_time);
  const double share = static_cast<double>(prefill_rows) / rows;
  total_[0] += prefill;
  total_[1] += decode;
  current_.bytes[0] += AllBytes(prefill);
  current_.bytes[1] += AllBytes(decode);
  current_.seconds[0] += seconds * share;
  current_.seconds[1] += seconds * (1 - share);
}

BandwidthMeter::Sums BandwidthMeter::Recent(absl::Time now) const {
  if (now - begun_ >= 2 * window_) return Sums();
  Sums sums = current_;
  if (now - begun_ >= window_) return sums;
  for (int p = 0; p < kNumPhases; ++p) {
    const auto i = static_cast<size_t>(p);
    sums.bytes[i] += previous_.bytes[i];
    sums.seconds[i] += previous_.seconds[i];
  }
  return sums;
}

double BandwidthMeter::BytesPerSecond(Phase phase, absl::Time now) const {
  const Sums sums = Recent(now);
  return Rate(sums.bytes[static_cast<size_t>(phase)], sums.seconds[static_cast<size_t>(phase)]);
}

double BandwidthMeter::BytesPerSecond(absl::Time now) const {
  const Sums sums = Recent(now);
  return Rate(sums.bytes[0] + sums.bytes[1], sums.seconds[0] + sums.seconds[1]);
}

}  // namespace dunlin::worker
