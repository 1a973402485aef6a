#include "worker/kv_rounding/statistics.h"

#include <algorithm>
#include <cstddef>

#include "base/check.h"
#include "kernels/quant_format.h"

namespace dunlin::worker {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

}  // namespace

KvStatistics::KvStatistics(const KvShape& shape, int num_q_heads)
    : shape_(shape),
      num_q_heads_(num_q_heads),
      tokens_(Index(shape.num_layers)),
      k_sum_(shape.vectors()),
      k_metric_(shape.vectors() * Index(shape.head_dim)),
      v_metric_(k_metric_.size()),
      row_(Index(shape.head_dim)) {
  CHECK_EQ(num_q_heads % shape.num_kv_heads, 0);
}

void KvStatistics::AddOuter(const float* x, double* sum) {
  const int n = shape_.head_dim;
  double* row = row_.data();
  for (int i = 0; i < n; ++i) row[i] = static_cast<double>(x[i]);
  for (int i = 0; i < n; ++i) {
    double* to = sum + Index(i) * Index(n);
    const double a = row[i];
    for (int j = i; j < n; ++j) to[j] += a * row[j];
  }
}

void KvStatistics::AddToken(int layer, const float* q, const float* k) {
  const size_t dim = Index(shape_.head_dim), heads = Index(shape_.num_kv_heads), group = Index(num_q_heads_) / heads;
  ++tokens_[Index(layer)];
  for (size_t i = 0; i < heads * dim; ++i) {
    k_sum_[Index(layer) * heads * dim + i] += static_cast<double>(k[i]);
  }
  for (size_t h = 0; h < Index(num_q_heads_); ++h) {
    AddOuter(q + h * dim, &k_metric_[(Index(layer) * heads + h / group) * dim * dim]);
  }
}

void KvStatistics::AddOutputMatrix(int layer, const model::GgufTensor& o) {
  const size_t dim = Index(shape_.head_dim), heads = Index(shape_.num_kv_heads), group = Index(num_q_heads_) / heads;
  CHECK_EQ(o.cols(), int64_t{num_q_heads_} * shape_.head_dim);
  std::vector<float> row(Index(o.cols()));
  const size_t row_bytes = kernels::RowBytes(o.type, o.cols());
  for (size_t r = 0; r < Index(o.rows()); ++r) {
    kernels::DequantizeRow(o.type, o.data.subspan(r * row_bytes, row_bytes), row);
    for (size_t h = 0; h < Index(num_q_heads_); ++h) {
      AddOuter(row.data() + h * dim, &v_metric_[(Index(layer) * heads + h / group) * dim * dim]);
    }
  }
}

KvCalibration KvStatistics::Finish() const {
  KvCalibration c;
  c.shape = shape_;
  c.num_tokens = tokens_[0];
  const size_t dim = Index(shape_.head_dim), per_layer = Index(shape_.num_kv_heads) * dim;
  for (size_t i = 0; i < shape_.vectors(); ++i) {
    c.centre.push_back(static_cast<float>(k_sum_[i] / std::max(1u, tokens_[i / per_layer])));
  }
  for (size_t head = 0; head < shape_.heads(); ++head) {
    const double n = std::max(1u, tokens_[head / Index(shape_.num_kv_heads)]);
    for (size_t i = 0; i < dim; ++i) {
      for (size_t j = i; j < dim; ++j) {
        const size_t at = (head * dim + i) * dim + j;
        c.k_metric.push_back(static_cast<float>(k_metric_[at] / n));
        c.v_metric.push_back(static_cast<float>(v_metric_[at]));
      }
    }
  }
  return c;
}

}  // namespace dunlin::worker
