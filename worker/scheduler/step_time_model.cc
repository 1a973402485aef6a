#include "worker/scheduler/step_time_model.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dunlin::worker {
namespace {

// Units of the features, so that all three are of the order of one.
constexpr double kTokenUnit = 256, kContextUnit = 65536;
constexpr double kForget = 0.98;     // remembers about 50 steps,
constexpr double kForgetFast = 0.9;  // and 10 while the errors keep to one side: the machine has changed
constexpr double kDrift = 0.15;      // mean error from which they do
constexpr double kDriftRate = 0.1;
constexpr double kMostChange = 4;   // an observation counts as this many times its prediction at most
constexpr double kPriorSteps = 16;  // a coefficient's uncertainty: up to this many typical steps

std::array<double, 3> Features(int32_t tokens, int64_t context) {
  return {1, tokens / kTokenUnit, static_cast<double>(context) / kContextUnit};
}

double Dot(const std::array<double, 3>& a, const std::array<double, 3>& b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

}  // namespace

StepTimeModel::StepTimeModel() : theta_{}, covariance_{} {}

void StepTimeModel::Observe(int32_t tokens, int64_t context, absl::Duration duration) {
  const double measured = absl::ToDoubleSeconds(duration);
  if (!std::isfinite(measured) || measured <= 0 || tokens < 1 || context < 0) return;
  const Vector features = Features(tokens, context);
  if (num_observed_ == 0) {
    typical_ = measured;
    SetCovariance(Variance());
  }
  typical_ += (measured - typical_) * (1 - kForget);
  // Errors relative to the prediction: a step of 1 ms and one of 1 s weigh alike.
  const double predicted = Dot(theta_, features);
  const double unit = ready() && predicted > 0 ? predicted : measured;
  const double seen = std::clamp(measured, unit / kMostChange, unit * kMostChange);
  const Vector x = {features[0] / unit, features[1] / unit, features[2] / unit};
  const double error = (seen - predicted) / unit;
  Correct(x, error, std::abs(drift_) > kDrift ? kForgetFast : kForget);
  drift_ += (error - drift_) * kDriftRate;
  KeepCoefficientsPositive();
  BoundCovariance();
  ++num_observed_;
}

void StepTimeModel::Correct(const Vector& x, double error, double forget) {
  const Vector px = {Dot(covariance_[0], x), Dot(covariance_[1], x), Dot(covariance_[2], x)};
  const double divisor = forget + Dot(x, px);
  for (size_t i = 0; i < 3; ++i) theta_[i] += px[i] / divisor * error;
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      covariance_[i][j] = (covariance_[i][j] - px[i] * px[j] / divisor) / forget;
      covariance_[j][i] = covariance_[i][j];
    }
  }
}

// The best estimate with the offending coefficient at zero: moves the others along their covariance with it.
void StepTimeModel::KeepCoefficientsPositive() {
  for (size_t i = 0; i < 3; ++i) {
    if (!(theta_[i] < 0)) continue;
    const double step = theta_[i] / covariance_[i][i];
    for (size_t j = 0; j < 3; ++j) theta_[j] -= covariance_[j][i] * step;
  }
  for (double& t : theta_) t = std::isfinite(t) ? std::max(t, 0.0) : 0;
}

// Forgetting inflates the covariance of what is not excited; rounding may spoil it. Neither may grow without end.
void StepTimeModel::BoundCovariance() {
  const double trace = covariance_[0][0] + covariance_[1][1] + covariance_[2][2];
  const double most = 3 * Variance();
  const double least = std::min({covariance_[0][0], covariance_[1][1], covariance_[2][2]});
  if (!std::isfinite(trace) || !(least > 0)) return SetCovariance(Variance());
  if (trace <= most) return;
  for (Vector& row : covariance_) {
    for (double& v : row) v *= most / trace;
  }
}

double StepTimeModel::Variance() const { return kPriorSteps * kPriorSteps * typical_ * typical_; }

void StepTimeModel::SetCovariance(double variance) {
  covariance_ = {{{variance, 0, 0}, {0, variance, 0}, {0, 0, variance}}};
}

absl::Duration StepTimeModel::Predict(int32_t tokens, int64_t context) const {
  return absl::Seconds(Dot(theta_, Features(tokens, context)));
}

int32_t StepTimeModel::MaxTokens(absl::Duration target, int64_t context, int64_t context_per_token) const {
  if (!ready() || target == absl::InfiniteDuration()) return kUnlimited;
  const auto [a, b, c] = coefficients();
  const double left = absl::ToDoubleSeconds(target) - a - c * static_cast<double>(context);
  const double each = b + c * static_cast<double>(context_per_token);
  if (left < each) return 0;
  const double tokens = left / each;
  return tokens < kUnlimited ? static_cast<int32_t>(tokens) : kUnlimited;
}

std::array<double, 3> StepTimeModel::coefficients() const {
  return {theta_[0], theta_[1] / kTokenUnit, theta_[2] / kContextUnit};
}

}  // namespace dunlin::worker
