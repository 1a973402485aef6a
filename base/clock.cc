#include "base/clock.h"

#include <chrono>

namespace dunlin {
namespace {

class RealClock final : public Clock {
 public:
  // steady_clock, offset once to the wall clock's epoch, so that a jump of the wall clock cannot expire deadlines.
  absl::Time Now() const override {
    return start_wall_ + absl::FromChrono(std::chrono::steady_clock::now() - start_steady_);
  }

 private:
  const absl::Time start_wall_ = absl::Now();
  const std::chrono::steady_clock::time_point start_steady_ = std::chrono::steady_clock::now();
};

}  // namespace

const Clock* Clock::Real() {
  static const RealClock* const clock = new RealClock();
  return clock;
}

}  // namespace dunlin
