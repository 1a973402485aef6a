// How long a step will take, learnt from the steps before: t = a + b * tokens + c * context, all three >= 0.
// tokens: rows of the step. context: sum over these rows of the tokens each attends to, so a decode row of a sequence
// with 1,000 tokens in its pages counts 1,000, and a chunk of m prompt rows behind p tokens m * p + m * m / 2.
// Thread-safety: none needed (engine thread).  Owns: fifteen numbers.  Cost: O(1), some tens of nanoseconds; allocates
// nothing.  Errors: none; observations that cannot be (not positive, not finite) are ignored.
//
// Method: recursive least squares of the relative error with forgetting, so that short and long steps weigh alike and a
// machine that changes its speed (clocks, neighbours) is followed within some tens of steps. Steady decoding excites
// few directions; the covariance is bounded, so what is not seen is neither forgotten for good nor blown up. One
// outlier (a page fault, a paused machine) moves the model by a bounded factor. Source: the textbook method
// (Ljung, System Identification, 11.2); normalisation, bound and clamping are ours.
#ifndef DUNLIN_WORKER_SCHEDULER_STEP_TIME_MODEL_H_
#define DUNLIN_WORKER_SCHEDULER_STEP_TIME_MODEL_H_

#include <array>
#include <cstdint>
#include <limits>

#include "absl/time/time.h"

namespace dunlin::worker {

class StepTimeModel {
 public:
  static constexpr int32_t kUnlimited = std::numeric_limits<int32_t>::max();

  StepTimeModel();

  void Observe(int32_t tokens, int64_t context, absl::Duration duration);
  // Zero until something was observed.
  absl::Duration Predict(int32_t tokens, int64_t context) const;
  // The most tokens of a step that is predicted to take `target` at most: `context` is what the step attends to
  // anyway (its decode rows), context_per_token what each further token adds. 0 when not even one token fits;
  // kUnlimited until the model is ready, and for an infinite target.
  int32_t MaxTokens(absl::Duration target, int64_t context, int64_t context_per_token = 0) const;

  // Enough was observed to size steps by it.
  bool ready() const { return num_observed_ >= kWarmup; }
  uint64_t num_observed() const { return num_observed_; }
  // a in seconds, b in seconds per token, c in seconds per token of context.
  std::array<double, 3> coefficients() const;

 private:
  static constexpr uint64_t kWarmup = 8;
  using Vector = std::array<double, 3>;

  void Correct(const Vector& x, double error, double forget);
  void KeepCoefficientsPositive();
  void BoundCovariance();
  void SetCovariance(double variance);
  double Variance() const;  // of a coefficient of which nothing is known

  Vector theta_;                      // of the scaled features
  std::array<Vector, 3> covariance_;  // symmetric, positive
  double typical_ = 0;                // seconds of a step, lately
  double drift_ = 0;                  // mean of the relative errors, lately
  uint64_t num_observed_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_STEP_TIME_MODEL_H_
