// Cases of attention on the device and their definition in double on what the pages store.
//
// The oracle rounds q to f16 as the kernels do, so what is left is the rounding of the weights p to f16 (relative error
// at most u = 2^-11, u / sqrt(3) in the mean square at the worst mantissa) and of f32 sums (2^-24 each, nothing beside
// it). out = sum p_j v_j / sum p_j with independent errors of p_j and v_j of mean zero has a relative error of u /
// sqrt(3) = 2.8e-4 in the L2 norm of a row; over the 64 values or more of a row it scatters by a tenth. kTolerance is
// above it three times and a half; one token of 700 too few or too many is an error of about 0.04.
// Thread-safety: none needed.  Owns: what each struct holds.  Source: ours.
#ifndef DUNLIN_TESTS_KERNELS_CUDA_ATTENTION_CASES_H_
#define DUNLIN_TESTS_KERNELS_CUDA_ATTENTION_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "kernels/quant_format.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cuda::testing {

inline constexpr double kTolerance = 1e-3;
inline constexpr int kLayer = 1;  // of two

struct AttentionCase {
  KvFormat k_format = KvFormat::kE4M3;
  KvFormat v_format = KvFormat::kE4M3;
  int dim = 64;
  int q_heads = 3;
  int kv_heads = 1;
  int window = 0;
  int sinks = 0;
  float soft_cap = 0.0f;
  bool sink_logits = false;
  int page_tokens = 16;
  int max_parts = 0;
  float q_scale = 1.0f;

  AttentionShape shape() const {
    AttentionShape s;
    s.num_q_heads = q_heads;
    s.num_kv_heads = kv_heads;
    s.head_dim = dim;
    s.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    s.window = window;
    s.sinks = sinks;
    return s;
  }
  PageLayout layout() const {
    return PageLayout::Create(page_tokens, 2, kv_heads, dim, k_format, v_format, false, SlabOrder::kDevice);
  }
};

struct AttentionInputs {
  kernels::testing::PagedBatch batch;
  std::vector<float> q;            // of the rows, without padding
  std::vector<float> sink_logits;  // [q_heads]
};

inline std::vector<kernels::testing::SequenceShape> OneRowEach(const std::vector<int>& contexts) {
  std::vector<kernels::testing::SequenceShape> shapes;
  for (const int context : contexts) shapes.push_back({context - 1, 1});
  return shapes;
}

// Nothing depends on page_seed, nor a sequence's values on the sequences after it.
inline AttentionInputs MakeInputs(const AttentionCase& c, const std::vector<kernels::testing::SequenceShape>& sequences,
                                  uint64_t page_seed = 3) {
  AttentionInputs in;
  in.batch = kernels::testing::MakeBatch(c.layout(), sequences, page_seed);
  kernels::testing::FillPages(&in.batch, 11);
  kernels::testing::Random random(5);
  in.q = random.Normals(in.batch.positions.size() * static_cast<size_t>(c.q_heads * c.dim), c.q_scale);
  in.sink_logits = kernels::testing::Random(7).Normals(static_cast<size_t>(c.q_heads), 2.0f);
  return in;
}

inline uint8_t* PageOfToken(const kernels::testing::PagedBatch& b, size_t sequence, int token) {
  return b.kv.page(b.tables[sequence][static_cast<size_t>(token / b.layout.page_tokens)]);
}

// Makes 0xFF of a token's K, V and scales in all layers, as if nobody had written them.
inline void PoisonToken(kernels::testing::PagedBatch* b, size_t sequence, int token) {
  const PageLayout& l = b->layout;
  uint8_t* page = PageOfToken(*b, sequence, token);
  const auto slot = static_cast<size_t>(token % l.page_tokens), dim = static_cast<size_t>(l.head_dim);
  const auto fill = [&](size_t slab, size_t bytes) { std::fill_n(page + slab + slot * bytes, bytes, uint8_t{0xFF}); };
  for (int layer = 0; layer < l.num_layers; ++layer) {
    for (int head = 0; head < l.num_kv_heads; ++head) {
      fill(l.KOffset(layer, head), dim * KvValueBytes(l.k_format));
      fill(l.VOffset(layer, head), dim * KvValueBytes(l.v_format));
      fill(l.KScaleOffset(layer, head), KvScaleBytes(l.k_format));
      fill(l.VScaleOffset(layer, head), KvScaleBytes(l.v_format));
    }
  }
}

// One row and q head, in double.
inline std::vector<double> OracleHead(const AttentionCase& c, const AttentionInputs& in, size_t sequence, int row,
                                      int head) {
  const kernels::testing::PagedBatch& b = in.batch;
  const int position = b.positions[static_cast<size_t>(row)], kv_head = head / (c.q_heads / c.kv_heads);
  const auto dim = static_cast<size_t>(c.dim);
  const float* q = in.q.data() + static_cast<size_t>(row * c.q_heads + head) * dim;
  const SeenRuns seen = TokensSeen(c.shape().pattern(), position, position);
  const double sink = static_cast<double>(in.sink_logits[static_cast<size_t>(head)]);
  std::vector<double> scores;
  std::vector<float> vector(dim);
  double top = c.sink_logits ? sink : -INFINITY;
  for (int t = 0; t <= position; ++t) {
    if (!seen.Contains(t)) continue;
    ReadKey(b.layout, PageOfToken(b, sequence, t), kLayer, kv_head, t % c.page_tokens, vector.data());
    double s = 0;
    for (size_t d = 0; d < dim; ++d) s += static_cast<double>(HalfToFloat(FloatToHalf(q[d]))) * vector[d];
    s *= static_cast<double>(c.shape().scale);
    if (c.soft_cap > 0) s = c.soft_cap * std::tanh(s / c.soft_cap);
    scores.push_back(s);
    top = std::max(top, s);
  }
  double sum = c.sink_logits ? std::exp(sink - top) : 0.0;
  std::vector<double> out(dim, 0.0);
  size_t next = 0;
  for (int t = 0; t <= position; ++t) {
    if (!seen.Contains(t)) continue;
    const double p = std::exp(scores[next++] - top);
    sum += p;
    ReadValue(b.layout, PageOfToken(b, sequence, t), kLayer, kv_head, t % c.page_tokens, vector.data());
    for (size_t d = 0; d < dim; ++d) out[d] += p * static_cast<double>(vector[d]);
  }
  for (double& x : out) x /= sum;
  return out;
}

// Rows of the sequences that `wanted(num_rows)` names; the others' stay empty.
template <typename Wanted>
std::vector<std::vector<double>> Oracle(const AttentionCase& c, const AttentionInputs& in, const Wanted& wanted) {
  std::vector<std::vector<double>> rows(in.batch.positions.size());
  for (size_t i = 0; i < in.batch.slices.size(); ++i) {
    const SequenceSlice& s = in.batch.slices[i];
    if (!wanted(s.num_rows)) continue;
    for (int row = s.first_row; row < s.first_row + s.num_rows; ++row) {
      for (int head = 0; head < c.q_heads; ++head) {
        const std::vector<double> out = OracleHead(c, in, i, row, head);
        rows[static_cast<size_t>(row)].insert(rows[static_cast<size_t>(row)].end(), out.begin(), out.end());
      }
    }
  }
  return rows;
}

}  // namespace dunlin::kernels::cuda::testing

#endif  // DUNLIN_TESTS_KERNELS_CUDA_ATTENTION_CASES_H_
