#include "kernels/kv_rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace dunlin::kernels {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

// Factors the symmetric h [n, n] as V D V' with V unit upper triangular, in place: V above the diagonal, D on it. False
// when a pivot is not positive and finite.
bool FactorFromTheEnd(int n, std::vector<double>* h) {
  std::vector<double>& a = *h;
  const auto at = [n](int i, int j) { return Index(i) * Index(n) + Index(j); };
  for (int j = n - 1; j >= 0; --j) {
    const double pivot = a[at(j, j)];
    if (!(pivot > 0.0) || !std::isfinite(pivot)) return false;
    for (int i = 0; i < j; ++i) {
      const double v = a[at(i, j)] / pivot;
      if (!std::isfinite(v)) return false;
      // What column j explains is taken off the rest; the lower triangle is not kept up.
      for (int k = i; k < j; ++k) a[at(i, k)] -= v * a[at(k, j)];
    }
    for (int i = 0; i < j; ++i) a[at(i, j)] /= pivot;
  }
  return true;
}

float RoundToCode(KvFormat format, float y) {
  if (format == KvFormat::kInt8) return std::clamp(std::nearbyint(y), -127.0f, 127.0f);
  return E4M3ToFloat(FloatToE4M3(y));
}

// Divides by the scale that to-nearest rounding stored.
void DivideByScale(KvFormat format, const uint8_t* scale, std::span<float> y) {
  if (format == KvFormat::kInt8) {
    float s;
    std::memcpy(&s, scale, sizeof s);
    for (float& v : y) v /= s;
  } else {
    const float inverse = std::ldexp(1.0f, 127 - int{*scale});
    for (float& v : y) v *= inverse;
  }
}

int QuantizeNearest(KvFormat format, std::span<const float> x, uint8_t* codes, size_t stride, uint8_t* scale) {
  if (format == KvFormat::kE4M3) return QuantizeE4M3(x, codes, stride, scale);
  float s;
  const int saturated = QuantizeInt8(x, reinterpret_cast<int8_t*>(codes), stride, &s);
  std::memcpy(scale, &s, sizeof s);
  return saturated;
}

}  // namespace

bool MakeKvFeedback(std::span<const double> metric, int head_dim, double damping, std::span<const uint16_t> order,
                    std::span<float> out) {
  const int n = head_dim;
  CHECK_EQ(metric.size(), Index(n) * Index(n));
  CHECK_EQ(order.size(), Index(n));
  CHECK_EQ(out.size(), KvFeedbackValues(n));
  double diagonal = 0.0;
  for (int i = 0; i < n; ++i) diagonal += metric[Index(i) * Index(n) + Index(i)];
  const auto factor = [&](double share) {
    std::vector<double> v(metric.size());
    for (int i = 0; i < n; ++i) {
      const size_t row = Index(order[Index(i)]) * Index(n);
      for (int j = 0; j < n; ++j) v[Index(i) * Index(n) + Index(j)] = metric[row + Index(order[Index(j)])];
      v[Index(i) * Index(n) + Index(i)] += share * diagonal / n;
    }
    if (!FactorFromTheEnd(n, &v)) v.clear();
    return v;
  };
  // With a tenth of the damping the metric holds too: so its smallest eigenvalue, damped, is at least nine tenths of
  // the damping, which bounds how far the feedback can carry any value.
  if (factor(damping / 10).empty()) return false;
  const std::vector<double> v = factor(damping);
  if (v.empty()) return false;
  // Fixing value i with error e, the best the later ones can do is to move by -e times row i of V's inverse.
  std::fill(out.begin(), out.end(), 0.0f);
  std::vector<double> row(Index(n));
  for (int i = 0; i < n; ++i) {
    for (int j = i + 1; j < n; ++j) {
      double sum = v[Index(i) * Index(n) + Index(j)];
      for (int k = i + 1; k < j; ++k) sum -= row[Index(k)] * v[Index(k) * Index(n) + Index(j)];
      row[Index(j)] = sum;
      const auto value = static_cast<float>(sum);
      if (!std::isfinite(value)) return false;
      out[KvFeedbackIndex(n, i, j)] = value;
    }
  }
  return true;
}

int QuantizeHead(KvFormat format, std::span<const float> x, const KvVectorRounding& rounding, uint8_t* codes,
                 size_t stride, uint8_t* scale) {
  CHECK(format == KvFormat::kE4M3 || format == KvFormat::kInt8) << static_cast<int>(format);
  if (rounding.centre == nullptr && rounding.feedback == nullptr)
    return QuantizeNearest(format, x, codes, stride, scale);
  CHECK_LE(x.size(), size_t{kMaxRoundedDim});
  const auto n = static_cast<int>(x.size());
  float centred[kMaxRoundedDim];
  bool finite = true;
  for (size_t i = 0; i < x.size(); ++i) {
    centred[i] = rounding.centre != nullptr ? x[i] - rounding.centre[i] : x[i];
    finite = finite && std::isfinite(centred[i]);
  }
  const int saturated = QuantizeNearest(format, {centred, x.size()}, codes, stride, scale);
  if (rounding.feedback == nullptr || !finite) return saturated;
  DivideByScale(format, scale, {centred, x.size()});
  float y[kMaxRoundedDim];
  for (size_t i = 0; i < x.size(); ++i) y[i] = centred[rounding.order[i]];
  for (int i = 0; i < n; ++i) {
    const float value = RoundToCode(format, y[i]);
    // + 0.0f: no code for -0, whose sign would hang on how the zero came about.
    codes[Index(rounding.order[i]) * stride] =
        format == KvFormat::kInt8 ? static_cast<uint8_t>(static_cast<int8_t>(value)) : FloatToE4M3(y[i] + 0.0f);
    const float error = y[i] - value;
    for (int j = i + 1; j < n; ++j) y[j] = std::fma(error, rounding.feedback[KvFeedbackIndex(n, i, j)], y[j]);
  }
  return saturated;
}

}  // namespace dunlin::kernels
