#include "worker/kv_rounding/statistics.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"
#include "kernels/quant_format.h"

namespace dunlin::worker {
namespace {

// Beyond these, every doubling of the position counts alike: most tokens stand early, and some far out.
constexpr double kFlatPositions = 64;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

// The two dims of pair i, the one that RoPE subtracts in first.
std::pair<size_t, size_t> PairAt(const kernels::RopeTable& rope, int i) {
  if (rope.pairing == kernels::RopePairing::kAdjacent) return {Index(2 * i), Index(2 * i + 1)};
  return {Index(i), Index(i + rope.dims / 2)};
}

// What turning by the angles of every position does on average (weighted as above): x'[d] = cos x[d] + sign sin
// x[partner[d]].
struct MeanTurn {
  size_t dim;
  std::vector<size_t> partner, angle;             // [dim]; dims that do not turn: themselves, and an angle of 0
  std::vector<double> sign;                       // [dim]
  size_t angles;                                  // of the pairs, and the 0
  std::vector<double> cos, sin;                   // [angles] means
  std::vector<double> cos_cos, sin_cos, sin_sin;  // [angles][angles] means of products, sin_cos: row's sin

  MeanTurn(const kernels::RopeTable& rope, int num_positions, int head_dim);
  double Vector(const double* x, size_t d) const {
    return cos[angle[d]] * x[d] + sign[d] * sin[angle[d]] * x[partner[d]];
  }
  // Entry (d, e) of the mean of R m R'. m: [dim, dim].
  double Metric(const std::vector<double>& m, size_t d, size_t e) const {
    const size_t at = angle[d] * angles + angle[e], turned = angle[e] * angles + angle[d];
    return cos_cos[at] * m[d * dim + e] + sign[e] * sin_cos[turned] * m[d * dim + partner[e]] +
           sign[d] * sin_cos[at] * m[partner[d] * dim + e] +
           sign[d] * sign[e] * sin_sin[at] * m[partner[d] * dim + partner[e]];
  }
};

MeanTurn::MeanTurn(const kernels::RopeTable& rope, int num_positions, int head_dim)
    : dim(Index(head_dim)),
      partner(dim),
      angle(dim, Index(rope.dims / 2)),
      sign(dim, 0.0),
      angles(Index(rope.dims / 2) + 1),
      cos(angles),
      sin(angles),
      cos_cos(angles * angles),
      sin_cos(cos_cos.size()),
      sin_sin(cos_cos.size()) {
  std::iota(partner.begin(), partner.end(), size_t{0});
  for (int i = 0; i < rope.dims / 2; ++i) {
    const auto [first, second] = PairAt(rope, i);
    partner[first] = second;
    partner[second] = first;
    sign[first] = -1.0;
    sign[second] = 1.0;
    angle[first] = angle[second] = Index(i);
  }
  std::vector<double> c(angles, 1.0), s(angles, 0.0);  // the last: an angle of 0
  double total = 0.0;
  const auto weight_at = [](int position) { return 1.0 / (position + kFlatPositions); };
  for (int position = 0; position < num_positions; ++position) total += weight_at(position);
  for (int position = 0; position < num_positions; ++position) {
    const double weight = weight_at(position) / total;
    for (size_t i = 0; i + 1 < angles; ++i) {
      c[i] = static_cast<double>(rope.cos[Index(position) * (angles - 1) + i]);
      s[i] = static_cast<double>(rope.sin[Index(position) * (angles - 1) + i]);
    }
    for (size_t i = 0; i < angles; ++i) {
      const double cos_share = c[i] * weight, sin_share = s[i] * weight;
      cos[i] += cos_share;
      sin[i] += sin_share;
      for (size_t j = 0; j < angles; ++j) {
        cos_cos[i * angles + j] += cos_share * c[j];
        sin_cos[i * angles + j] += sin_share * c[j];
        sin_sin[i * angles + j] += sin_share * s[j];
      }
    }
  }
}

}  // namespace

KvStatistics::KvStatistics(const KvShape& shape, int num_q_heads, const kernels::RopeTable& rope, const Ranges& ranges)
    : shape_(shape),
      num_q_heads_(num_q_heads),
      rope_(rope),
      ranges_(ranges),
      tokens_(Index(shape.num_layers)),
      k_sum_(shape.vectors()),
      k_metric_(shape.vectors() * Index(shape.head_dim)),
      v_metric_(k_metric_.size()) {
  CHECK_EQ(num_q_heads % shape.num_kv_heads, 0);
  CHECK_GE(ranges.centre, 1);
  CHECK_GE(ranges.metric, 1);
}

void KvStatistics::AddOuter(const double* x, double* sum) const {
  const int n = shape_.head_dim;
  for (int i = 0; i < n; ++i) {
    double* to = sum + Index(i) * Index(n);
    const double a = x[i];
    for (int j = i; j < n; ++j) to[j] += a * x[j];
  }
}

void KvStatistics::TurnBack(int position, double* x) const {
  const size_t row = Index(position) * Index(rope_.dims / 2);
  for (int i = 0; i < rope_.dims / 2; ++i) {
    const auto c = static_cast<double>(rope_.cos[row + Index(i)]), s = static_cast<double>(rope_.sin[row + Index(i)]);
    const double norm = c * c + s * s;  // not 1 where the table's angles come with a factor
    const auto [first, second] = PairAt(rope_, i);
    const double a = x[first], b = x[second];
    x[first] = (a * c + b * s) / norm;
    x[second] = (b * c - a * s) / norm;
  }
}

void KvStatistics::AddToken(int layer, int position, const float* q, const float* k) {
  const size_t dim = Index(shape_.head_dim), heads = Index(shape_.num_kv_heads), group = Index(num_q_heads_) / heads;
  ++tokens_[Index(layer)];
  std::vector<double> x(dim);
  for (size_t h = 0; h < heads; ++h) {
    x.assign(k + h * dim, k + (h + 1) * dim);
    TurnBack(position, x.data());
    for (size_t i = 0; i < dim; ++i) k_sum_[(Index(layer) * heads + h) * dim + i] += x[i];
  }
  for (size_t h = 0; h < Index(num_q_heads_); ++h) {
    x.assign(q + h * dim, q + (h + 1) * dim);
    TurnBack(position, x.data());
    AddOuter(x.data(), &k_metric_[(Index(layer) * heads + h / group) * dim * dim]);
  }
}

void KvStatistics::AddOutputMatrix(int layer, const model::GgufTensor& o, std::span<const uint8_t> blocks) {
  const size_t dim = Index(shape_.head_dim), heads = Index(shape_.num_kv_heads), group = Index(num_q_heads_) / heads;
  CHECK_EQ(o.cols(), int64_t{num_q_heads_} * shape_.head_dim);
  std::vector<float> row(Index(o.cols()));
  const size_t row_bytes = kernels::RowBytes(o.type, o.cols());
  for (size_t r = 0; r < Index(o.rows()); ++r) {
    kernels::DequantizeRow(o.type, blocks.subspan(r * row_bytes, row_bytes), row);
    const std::vector<double> wide(row.begin(), row.end());
    for (size_t h = 0; h < Index(num_q_heads_); ++h) {
      AddOuter(&wide[h * dim], &v_metric_[(Index(layer) * heads + h / group) * dim * dim]);
    }
  }
}

KvCalibration KvStatistics::Finish() const {
  KvCalibration c;
  c.shape = shape_;
  c.num_tokens = tokens_[0];
  const size_t dim = Index(shape_.head_dim);
  const MeanTurn centre_turn(rope_, ranges_.centre, shape_.head_dim);
  const MeanTurn metric_turn(rope_, ranges_.metric, shape_.head_dim);
  std::vector<double> metric(dim * dim);
  for (size_t head = 0; head < shape_.heads(); ++head) {
    const double n = std::max(1u, tokens_[head / Index(shape_.num_kv_heads)]);
    for (size_t i = 0; i < dim; ++i) {
      for (size_t j = i; j < dim; ++j)
        metric[i * dim + j] = metric[j * dim + i] = k_metric_[(head * dim + i) * dim + j];
    }
    for (size_t i = 0; i < dim; ++i) {
      c.centre.push_back(static_cast<float>(centre_turn.Vector(&k_sum_[head * dim], i) / n));
      for (size_t j = i; j < dim; ++j) {
        c.k_metric.push_back(static_cast<float>(metric_turn.Metric(metric, i, j) / n));
        c.v_metric.push_back(static_cast<float>(v_metric_[(head * dim + i) * dim + j]));
      }
    }
  }
  return c;
}

}  // namespace dunlin::worker
