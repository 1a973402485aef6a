#include "kernels/reference/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <thread>

#include "base/check.h"
#include "kernels/quant_format.h"

namespace dunlin::kernels {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

// Calls body(i) for i in [0, n), contiguous ranges on each thread.
void ParallelFor(int threads, int n, const std::function<void(int)>& body) {
  const int workers = std::clamp(threads, 1, std::max(n, 1));
  std::vector<std::thread> pool;
  for (int t = 1; t < workers; ++t) {
    pool.emplace_back([=, &body] {
      for (int i = static_cast<int>(int64_t{n} * t / workers); i < int64_t{n} * (t + 1) / workers; ++i) body(i);
    });
  }
  for (int i = 0; i < n / workers; ++i) body(i);
  for (std::thread& t : pool) t.join();
}

// sum of a[i] * b[i] in double, in eight interleaved partial sums (so that the compiler may use vectors).
template <typename A, typename B>
double Dot(const A* a, const B* b, int n) {
  double sums[8] = {};
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += static_cast<double>(a[i + j]) * static_cast<double>(b[i + j]);
  }
  for (; i < n; ++i) sums[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// out[r, o] = W[o] . in[r] for every row and output. Weight rows outermost: each is read and widened once.
void MatMul(int threads, const ReferenceOps::Matrix& w, int num_rows, const float* in, float* out) {
  const std::vector<double> x(in, in + Index(num_rows) * Index(w.cols));
  ParallelFor(threads, w.rows, [&](int o) {
    const float* row = &w.values[Index(o) * Index(w.cols)];
    const std::vector<double> wide(row, row + w.cols);
    for (int r = 0; r < num_rows; ++r) {
      out[Index(r) * Index(w.rows) + Index(o)] =
          static_cast<float>(Dot(wide.data(), &x[Index(r) * Index(w.cols)], w.cols));
    }
  });
}

std::vector<float> NormRows(const float* x, const float* norm, float eps, int num_rows, int width) {
  std::vector<float> h(Index(num_rows) * Index(width));
  for (int r = 0; r < num_rows; ++r) {
    RmsNorm(x + Index(r) * Index(width), norm, width, eps, &h[Index(r) * Index(width)]);
  }
  return h;
}

uint64_t FloatBytes(int64_t rows, int64_t cols) { return static_cast<uint64_t>(rows * cols) * sizeof(float); }

void AddBias(const float* bias, int n, float* row) {
  if (bias == nullptr) return;
  for (int i = 0; i < n; ++i) row[i] += bias[i];
}

// Optional per-head norm, then RoPE, on all heads of one row.
void FinishHeads(const float* head_norm, const RopeTable& rope, float eps, int position, int heads, int dim,
                 float* row) {
  for (int h = 0; h < heads; ++h) {
    float* head = row + Index(h) * Index(dim);
    if (head_norm != nullptr) RmsNorm(head, head_norm, dim, eps, head);
    ApplyRope(rope, position, head);
  }
}

struct AttentionCall {
  const AttentionShape& shape;
  const PagedKvView& kv;
  int layer;
  const float* q;
  float* out;
};

// The pages that a row at `position` picks among those it sees; q: its query heads of the KV head's group. Adds the
// pages whose bounds it looks at to *scored.
std::vector<int> SelectPages(const AttentionCall& call, const SequenceSlice& s, int kv_head, int position,
                             const float* q, std::set<int>* scored) {
  const PageLayout& layout = call.kv.layout;
  const AttentionPattern pattern = call.shape.pattern();
  const SeenRuns seen = PagesOf(TokensSeen(pattern, position, position), layout.page_tokens);
  const int own = position / layout.page_tokens, dim = layout.head_dim;
  std::vector<int> pages;
  for (int p = 0; p <= own; ++p) {
    if (seen.Contains(p)) pages.push_back(p);
  }
  if (pattern.top_pages == 0 || static_cast<int>(pages.size()) <= pattern.top_pages) return pages;
  if (pattern.top_pages == 1) return {own};
  std::vector<double> score(Index(own) + 1, -INFINITY);
  for (const int p : pages) {
    if (p == own) continue;
    scored->insert(p);
    std::vector<float> min(Index(dim)), max(Index(dim));
    ReadKeyBounds(layout, call.kv.page(s.pages[p]), call.layer, kv_head, min.data(), max.data());
    for (int g = 0; g < call.shape.num_q_heads / call.shape.num_kv_heads; ++g) {
      double sum = 0.0;
      for (int d = 0; d < dim; ++d) {
        const auto value = static_cast<double>(q[Index(g) * Index(dim) + Index(d)]);
        sum += std::max(value * static_cast<double>(min[Index(d)]), value * static_cast<double>(max[Index(d)]));
      }
      if (sum > score[Index(p)]) score[Index(p)] = sum;
    }
    if (p == 0) score[0] = INFINITY;
  }
  score[Index(own)] = INFINITY;
  std::stable_sort(pages.begin(), pages.end(),
                   [&](int a, int b) { return a == own ? b != own : b != own && score[Index(a)] > score[Index(b)]; });
  pages.resize(Index(pattern.top_pages));
  return pages;
}

// One query head of a row over the tokens it sees. keys, values: [context, head_dim].
void AttendQuery(const AttentionShape& shape, const std::vector<int>& tokens, const std::vector<float>& keys,
                 const std::vector<float>& values, const float* q, float* out) {
  const int dim = shape.head_dim;
  std::vector<double> scores, sum(Index(dim));
  double max = -INFINITY, total = 0.0;
  for (const int p : tokens) {
    scores.push_back(static_cast<double>(shape.scale) * Dot(&keys[Index(p) * Index(dim)], q, dim));
    max = std::max(max, scores.back());
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    const double w = std::exp(scores[i] - max);
    total += w;
    const float* value = &values[Index(tokens[i]) * Index(dim)];
    for (int d = 0; d < dim; ++d) sum[Index(d)] += w * static_cast<double>(value[d]);
  }
  for (int d = 0; d < dim; ++d) out[d] = static_cast<float>(sum[Index(d)] / total);
}

// One sequence's rows against one KV head. Returns the bytes read: every token that a row sees, and every bound, once.
uint64_t AttendHead(const AttentionCall& call, const SequenceSlice& s, int kv_head) {
  const AttentionShape& shape = call.shape;
  const PageLayout& layout = call.kv.layout;
  const int dim = shape.head_dim, group = shape.num_q_heads / shape.num_kv_heads;
  const int context = s.context_tokens + s.num_rows;
  // The sequence's keys and values of this head as the pages hold them, read once.
  std::vector<float> keys(Index(context) * Index(dim)), values(keys.size());
  for (int p = 0; p < context; ++p) {
    const uint8_t* page = call.kv.page(s.pages[p / layout.page_tokens]);
    ReadKey(layout, page, call.layer, kv_head, p % layout.page_tokens, &keys[Index(p) * Index(dim)]);
    ReadValue(layout, page, call.layer, kv_head, p % layout.page_tokens, &values[Index(p) * Index(dim)]);
  }
  std::set<int> scored;
  std::vector<char> read(Index(context), 0);
  for (int i = 0; i < s.num_rows; ++i) {
    const int position = s.context_tokens + i;
    const size_t at = (Index(s.first_row + i) * Index(shape.num_q_heads) + Index(kv_head * group)) * Index(dim);
    const std::vector<int> pages = SelectPages(call, s, kv_head, position, call.q + at, &scored);
    const SeenRuns seen = TokensSeen(shape.pattern(), position, position);
    std::vector<char> picked(Index(position / layout.page_tokens + 1), 0);
    for (const int p : pages) picked[Index(p)] = 1;
    std::vector<int> tokens;
    for (int p = 0; p <= position; ++p) {
      if (picked[Index(p / layout.page_tokens)] == 0 || !seen.Contains(p)) continue;
      tokens.push_back(p);
      read[Index(p)] = 1;
    }
    for (int g = 0; g < group; ++g) {
      const size_t head = at + Index(g) * Index(dim);
      AttendQuery(shape, tokens, keys, values, call.q + head, call.out + head);
    }
  }
  const auto tokens_read = static_cast<uint64_t>(std::count(read.begin(), read.end(), 1));
  return tokens_read * layout.TokenLayerBytes() / Index(layout.num_kv_heads) + scored.size() * layout.HeadBoundsBytes();
}

}  // namespace

void RmsNorm(const float* x, const float* norm, int n, float eps, float* out) {
  double sum = 0.0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  const double inverse = 1.0 / std::sqrt(sum / n + static_cast<double>(eps));
  for (int i = 0; i < n; ++i)
    out[i] = static_cast<float>(static_cast<double>(x[i]) * inverse * static_cast<double>(norm[i]));
}

void ApplyRope(const RopeTable& rope, int position, float* head) {
  const int half = rope.dims / 2;
  const float* cos = rope.cos + Index(position) * Index(half);
  const float* sin = rope.sin + Index(position) * Index(half);
  for (int i = 0; i < half; ++i) {
    const bool adjacent = rope.pairing == RopePairing::kAdjacent;
    float& a = head[adjacent ? 2 * i : i];
    float& b = head[adjacent ? 2 * i + 1 : i + half];
    const float x = a, y = b;
    a = x * cos[i] - y * sin[i];
    b = x * sin[i] + y * cos[i];
  }
}

float Activate(FfnActivation activation, float x) {
  const auto v = static_cast<double>(x);
  if (activation == FfnActivation::kSilu) return static_cast<float>(v / (1.0 + std::exp(-v)));
  constexpr double kSqrt2OverPi = 0.79788456080286535588;
  return static_cast<float>(0.5 * v * (1.0 + std::tanh(kSqrt2OverPi * (v + 0.044715 * v * v * v))));
}

ReferenceOps::Matrix ReferenceOps::Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes) {
  CHECK_EQ(bytes.size(), RowBytes(type, int64_t{rows} * cols));
  Matrix m{rows, cols, bytes.size(), std::vector<float>(Index(rows) * Index(cols))};
  DequantizeRow(type, bytes, m.values);
  return m;
}

Traffic ReferenceOps::Embed(const Matrix& table, const BatchView& batch, float scale, float* x) {
  for (int r = 0; r < batch.num_rows; ++r) {
    const int32_t id = batch.token_ids[r];
    CHECK(id >= 0 && id < table.rows) << "token id " << id;
    const float* row = &table.values[Index(id) * Index(table.cols)];
    for (int i = 0; i < table.cols; ++i) x[Index(r) * Index(table.cols) + Index(i)] = scale * row[i];
  }
  Traffic t;
  t.weight_bytes = table.file_bytes / static_cast<uint64_t>(table.rows) * static_cast<uint64_t>(batch.num_rows);
  t.activation_bytes = FloatBytes(batch.num_rows, table.cols);
  return t;
}

Traffic ReferenceOps::AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape,
                                     const BatchView& batch, const PagedKvView& kv, const float* x, float* q,
                                     int64_t* saturated) {
  const int dim = shape.head_dim;
  const int q_width = shape.num_q_heads * dim, kv_width = shape.num_kv_heads * dim;
  const std::vector<float> h = NormRows(x, args.norm, args.eps, batch.num_rows, args.wq->cols);
  std::vector<float> k(Index(batch.num_rows) * Index(kv_width)), v(k.size());
  MatMul(threads_, *args.wq, batch.num_rows, h.data(), q);
  MatMul(threads_, *args.wk, batch.num_rows, h.data(), k.data());
  MatMul(threads_, *args.wv, batch.num_rows, h.data(), v.data());
  for (const SequenceSlice& s : batch.sequences) {
    for (int i = 0; i < s.num_rows; ++i) {
      const int row = s.first_row + i;
      float* q_row = q + Index(row) * Index(q_width);
      float* k_row = &k[Index(row) * Index(kv_width)];
      float* v_row = &v[Index(row) * Index(kv_width)];
      AddBias(args.q_bias, q_width, q_row);
      AddBias(args.k_bias, kv_width, k_row);
      AddBias(args.v_bias, kv_width, v_row);
      const int position = batch.positions[row];
      FinishHeads(args.q_norm, *args.rope, args.eps, position, shape.num_q_heads, dim, q_row);
      FinishHeads(args.k_norm, *args.rope, args.eps, position, shape.num_kv_heads, dim, k_row);
      const int token = s.context_tokens + i;
      *saturated += AppendToken(kv.layout, kv.page(s.pages[token / kv.layout.page_tokens]), args.layer,
                                token % kv.layout.page_tokens, k_row, v_row, args.rounding);
      if (kv.layout.has_key_bounds() && (token + 1) % kv.layout.page_tokens == 0) {
        WriteKeyBounds(kv.layout, kv.page(s.pages[token / kv.layout.page_tokens]), args.layer);
      }
    }
  }
  Traffic t;
  t.weight_bytes = args.wq->file_bytes + args.wk->file_bytes + args.wv->file_bytes;
  t.kv_write_bytes = kv.layout.AppendBytes({batch.positions, Index(batch.num_rows)});
  t.activation_bytes = FloatBytes(batch.num_rows, args.wq->cols + q_width);
  return t;
}

Traffic ReferenceOps::PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv,
                                     int layer, const float* q, float* out) {
  const PageLayout& layout = kv.layout;
  CHECK(shape.top_pages == 0 || layout.has_key_bounds());
  Traffic t;
  for (const SequenceSlice& s : batch.sequences) {
    std::vector<uint64_t> bytes(Index(shape.num_kv_heads));
    ParallelFor(threads_, shape.num_kv_heads, [&](int kv_head) {
      bytes[Index(kv_head)] = AttendHead({shape, kv, layer, q, out}, s, kv_head);
    });
    for (const uint64_t b : bytes) t.kv_read_bytes += b;
  }
  t.activation_bytes = 2 * FloatBytes(batch.num_rows, shape.num_q_heads * shape.head_dim);
  return t;
}

Traffic ReferenceOps::ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual) {
  std::vector<float> y(Index(num_rows) * Index(w.rows));
  MatMul(threads_, w, num_rows, in, y.data());
  for (size_t i = 0; i < y.size(); ++i) residual[i] += y[i];
  Traffic t;
  t.weight_bytes = w.file_bytes;
  t.activation_bytes = FloatBytes(num_rows, w.cols + 2 * w.rows);
  return t;
}

Traffic ReferenceOps::GatedFfn(const Matrix& gate, const Matrix& up, const float* norm, float eps,
                               FfnActivation activation, int num_rows, const float* x, float* out) {
  const std::vector<float> h = NormRows(x, norm, eps, num_rows, gate.cols);
  std::vector<float> u(Index(num_rows) * Index(up.rows));
  MatMul(threads_, gate, num_rows, h.data(), out);
  MatMul(threads_, up, num_rows, h.data(), u.data());
  for (size_t i = 0; i < u.size(); ++i) out[i] = Activate(activation, out[i]) * u[i];
  Traffic t;
  t.weight_bytes = gate.file_bytes + up.file_bytes;
  t.activation_bytes = FloatBytes(num_rows, gate.cols + gate.rows);
  return t;
}

Traffic ReferenceOps::Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows,
                             const float* x, float* logits) {
  std::vector<float> h(rows.size() * Index(head.cols));
  for (size_t i = 0; i < rows.size(); ++i) {
    RmsNorm(x + Index(rows[i]) * Index(head.cols), norm, head.cols, eps, &h[i * Index(head.cols)]);
  }
  MatMul(threads_, head, static_cast<int>(rows.size()), h.data(), logits);
  Traffic t;
  t.weight_bytes = rows.empty() ? 0 : head.file_bytes;
  t.activation_bytes = FloatBytes(static_cast<int64_t>(rows.size()), head.cols + head.rows);
  return t;
}

Traffic ReferenceOps::Sample(const float* logits, int vocab, std::span<const SampleParams> params,
                             std::span<SampleResult> results) {
  CHECK_EQ(params.size(), results.size());
  for (size_t i = 0; i < params.size(); ++i) SampleReference(logits + i * Index(vocab), vocab, params[i], &results[i]);
  Traffic t;
  t.activation_bytes = FloatBytes(static_cast<int64_t>(params.size()), vocab);
  return t;
}

}  // namespace dunlin::kernels
