#include "worker/kv_rounding/rounding_tables.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace dunlin::worker {
namespace {

constexpr double kDamping = 0.01;

// Of the whole model -> of one layer.
kernels::KvVectorRounding OfLayer(const KvShape& shape, size_t layer, const std::vector<float>& centre,
                                  const std::vector<uint16_t>& order, const std::vector<float>& feedback) {
  const size_t heads = layer * static_cast<size_t>(shape.num_kv_heads), dim = static_cast<size_t>(shape.head_dim);
  kernels::KvVectorRounding r;
  if (!centre.empty()) r.centre = centre.data() + heads * dim;
  if (!feedback.empty()) {
    r.order = order.data() + heads * dim;
    r.feedback = feedback.data() + heads * kernels::KvFeedbackValues(shape.head_dim);
  }
  return r;
}

}  // namespace

absl::StatusOr<KvRoundingTables::Feedback> KvRoundingTables::MakeFeedback(const KvShape& shape,
                                                                          const std::vector<float>& metrics) {
  const auto dim = static_cast<size_t>(shape.head_dim);
  const size_t values = kernels::KvFeedbackValues(shape.head_dim);
  Feedback out;
  out.order.resize(shape.vectors());
  out.values.resize(shape.heads() * values);
  std::vector<double> metric(dim * dim);
  for (size_t head = 0; head < shape.heads(); ++head) {
    const float* from = metrics.data() + head * shape.triangle();
    for (size_t i = 0; i < dim; ++i) {
      for (size_t j = i; j < dim; ++j) metric[i * dim + j] = metric[j * dim + i] = static_cast<double>(*from++);
    }
    const std::span<uint16_t> order(&out.order[head * dim], dim);
    std::iota(order.begin(), order.end(), uint16_t{0});
    // What weighs most is rounded first, while the most values are left to make up for it.
    std::stable_sort(order.begin(), order.end(),
                     [&](uint16_t a, uint16_t b) { return metric[a * dim + a] > metric[b * dim + b]; });
    if (!kernels::MakeKvFeedback(metric, shape.head_dim, kDamping, order,
                                 std::span<float>(&out.values[head * values], values))) {
      return absl::InvalidArgumentError(absl::StrCat("the metric of head ", head, " is not positive definite"));
    }
  }
  return out;
}

absl::StatusOr<KvRoundingTables> KvRoundingTables::Create(const KvCalibration& calibration, kernels::KvFormat k_format,
                                                          kernels::KvFormat v_format, KvRoundingMode mode) {
  CHECK(mode != KvRoundingMode::kNearest);
  CHECK_LE(calibration.shape.head_dim, kernels::kMaxRoundedDim);
  KvRoundingTables t;
  t.shape_ = calibration.shape;
  const bool compensate = mode == KvRoundingMode::kCompensated;
  const bool k = kernels::KvScaleBytes(k_format) > 0, v = kernels::KvScaleBytes(v_format) > 0;
  if (k) t.centre_ = calibration.centre;
  if (k && compensate) {
    ASSIGN_OR_RETURN(t.k_, MakeFeedback(t.shape_, calibration.k_metric));
  }
  if (v && compensate) {
    ASSIGN_OR_RETURN(t.v_, MakeFeedback(t.shape_, calibration.v_metric));
  }
  if (k || v) t.id_ = HashBytes(SerializeKvCalibration(calibration, static_cast<uint64_t>(mode)));
  return t;
}

std::vector<kernels::KvRounding> KvRoundingTables::Layers() const {
  std::vector<kernels::KvRounding> layers;
  if (id_ == 0) return layers;
  for (size_t layer = 0; layer < static_cast<size_t>(shape_.num_layers); ++layer) {
    layers.push_back(
        {OfLayer(shape_, layer, centre_, k_.order, k_.values), OfLayer(shape_, layer, {}, v_.order, v_.values)});
  }
  return layers;
}

}  // namespace dunlin::worker
