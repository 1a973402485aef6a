#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr int kFinishRows = 16;  // whose K and V are appended together

constexpr int kDecodeRows = 4;  // up to which reading weights takes longer than multiplying them

size_t Index(int64_t i) { return static_cast<size_t>(i); }

uint64_t FloatBytes(int64_t rows, int64_t cols) { return static_cast<uint64_t>(rows * cols) * sizeof(float); }

void AddBias(const float* bias, int n, float* row) {
  if (bias == nullptr) return;
  for (int i = 0; i < n; ++i) row[i] += bias[i];
}

}  // namespace

CpuOps::CpuOps(int num_threads, Isa isa)
    : kernels_(&GetKernels(isa)), pool_(num_threads), decode_threads_(num_threads), products_(kernels_, &pool_) {}

CpuMatrix CpuOps::Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes) {
  return PackMatrix(type, rows, cols, kernels_->group_rows, bytes, &arena_, &pool_);
}

void CpuOps::Reserve(const OpLimits& limits) {
  limits_ = limits;
  const AttentionShape& a = limits.attention;
  products_.Reserve(std::max({limits.max_rows, limits.max_outputs, 1}),
                    std::max({limits.hidden, limits.ffn, a.num_q_heads * a.head_dim, 1}));
  k_.assign(Index(limits.max_rows) * Index(a.num_kv_heads * a.head_dim), 0.0f);
  v_.assign(k_.size(), 0.0f);
  scratch_.clear();
  scratch_.resize(Index(num_threads()));
  for (ThreadScratch& s : scratch_) {
    s.sampler.Reserve(limits.vocab);
  }
  attention_.Reserve(limits, *kernels_, num_threads());
}

Traffic CpuOps::Embed(const Matrix& table, const BatchView& batch, float scale, float* x) {
  pool_.SetActive(batch.num_rows <= kDecodeRows ? decode_threads_ : pool_.num_threads());  // for the whole step
  pool_.Run([&](ThreadPool::Context& context) {
    while (true) {
      const int64_t r = context.Next(0);
      if (r >= batch.num_rows) return;
      float* row = x + Index(r) * Index(table.cols);
      UnpackRow(table, batch.token_ids[r], row);
      if (scale != 1.0f) kernels_->scale(scale, table.cols, row, row);
    }
  });
  Traffic t;
  t.weight_bytes = table.group_bytes / Index(table.group_rows) * static_cast<uint64_t>(batch.num_rows);
  t.activation_bytes = FloatBytes(batch.num_rows, table.cols);
  return t;
}

void CpuOps::CheckAttentionInput(const AttentionInputCall& call) const {
  CHECK_LE(call.batch.num_rows, limits_.max_rows);
  CHECK_EQ(call.args.wq->rows, call.shape.num_q_heads * call.shape.head_dim);
  CHECK_EQ(call.args.wk->rows, call.shape.num_kv_heads * call.shape.head_dim);
  CHECK_EQ(call.args.wv->rows, call.args.wk->rows);
}

void CpuOps::FinishQueries(const AttentionInputCall& call, int row) const {
  const int dim = call.shape.head_dim;
  float* q = call.q + Index(row) * Index(call.args.wq->rows);
  AddBias(call.args.q_bias, call.args.wq->rows, q);
  for (int h = 0; h < call.shape.num_q_heads; ++h, q += dim) {
    if (call.args.q_norm != nullptr) kernels_->rms_norm(q, call.args.q_norm, call.args.eps, dim, q);
    kernels_->rotate(*call.args.rope, call.batch.positions[row], q);
  }
}

void CpuOps::FinishKeys(const AttentionInputCall& call, int row) {
  const int dim = call.shape.head_dim;
  const int width = call.args.wk->rows;
  float* k = k_.data() + Index(row) * Index(width);
  AddBias(call.args.k_bias, width, k);
  AddBias(call.args.v_bias, width, v_.data() + Index(row) * Index(width));
  for (int h = 0; h < call.shape.num_kv_heads; ++h) {
    float* head = k + h * dim;
    if (call.args.k_norm != nullptr) kernels_->rms_norm(head, call.args.k_norm, call.args.eps, dim, head);
    kernels_->rotate(*call.args.rope, call.batch.positions[row], head);
  }
}

int CpuOps::AppendRows(const AttentionInputCall& call, int first, int count) {
  TokenSlot tokens[kFinishRows];
  const PageLayout& layout = call.kv.layout;
  const std::span<const SequenceSlice> sequences = call.batch.sequences;
  const size_t width = Index(call.args.wk->rows);
  const auto ends_after = [](int row, const SequenceSlice& s) { return row < s.first_row + s.num_rows; };
  auto s = std::upper_bound(sequences.begin(), sequences.end(), first, ends_after);
  for (int i = 0; i < count; ++i) {
    const int row = first + i;
    FinishKeys(call, row);
    while (!ends_after(row, *s)) ++s;
    const int token = s->context_tokens + row - s->first_row;
    tokens[i] = {call.kv.page(s->pages[token / layout.page_tokens]), token % layout.page_tokens,
                 k_.data() + Index(row) * width, v_.data() + Index(row) * width};
  }
  return kernels_->append_tokens(layout, call.args.layer, tokens, count, call.args.rounding);
}

// Phases: 4.
void CpuOps::RunAttentionInput(ThreadPool::Context& context, int phase, AttentionInputCall* call) {
  const AttentionInputArgs<Matrix>& args = call->args;
  const Matrix* const matrices[3] = {args.wq, args.wk, args.wv};
  float* const outputs[3] = {call->q, k_.data(), v_.data()};
  const Products::Inputs inputs =
      products_.Prepare(context, phase, matrices, {call->x, nullptr, args.norm, args.eps}, call->batch.num_rows);
  products_.Multiply(context, phase + 1, matrices, inputs,
                     [&](size_t m, int first, int count, int first_row, int rows, const float* block) {
                       const size_t width = Index(matrices[m]->rows);
                       for (int r = 0; r < rows; ++r) {
                         std::memcpy(outputs[m] + Index(first_row + r) * width + first, block + r * kBlockRows,
                                     Index(count) * sizeof(float));
                       }
                     });
  context.Barrier();
  // Two items a group of rows, so that one keeps two threads busy. Few rows are spread one by one.
  int64_t saturated = 0;
  const int num_rows = call->batch.num_rows;
  const int group = num_rows < kFinishRows / 2 ? 1 : kFinishRows;
  const int num_groups = (num_rows + group - 1) / group;
  context.ForShare(phase + 2, int64_t{2} * num_groups, 1, [&](int64_t item, int64_t) {
    const int first = static_cast<int>(item / 2) * group;
    const int count = std::min(group, num_rows - first);
    if (item % 2 != 0) {
      saturated += AppendRows(*call, first, count);
      return;
    }
    for (int row = first; row < first + count; ++row) FinishQueries(*call, row);
  });
  if (saturated > 0) call->saturated.fetch_add(saturated, std::memory_order_relaxed);
  if (!call->kv.layout.has_key_bounds()) return;
  context.Barrier();
  attention_.WriteCompletedBounds(context, phase + 3, call->batch, call->kv, args.layer);
}

Traffic CpuOps::AttentionInputTraffic(const AttentionInputCall& call) const {
  const AttentionInputArgs<Matrix>& args = call.args;
  Traffic t;
  t.weight_bytes = args.wq->packed_bytes() + args.wk->packed_bytes() + args.wv->packed_bytes();
  t.kv_write_bytes = call.kv.layout.AppendBytes({call.batch.positions, Index(call.batch.num_rows)});
  t.activation_bytes = FloatBytes(call.batch.num_rows, args.wq->cols + args.wq->rows);
  return t;
}

Traffic CpuOps::AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape,
                               const BatchView& batch, const PagedKvView& kv, const float* x, float* q,
                               int64_t* saturated) {
  AttentionInputCall call{args, shape, batch, kv, x, q};
  CheckAttentionInput(call);
  pool_.Run([&](ThreadPool::Context& context) { RunAttentionInput(context, 0, &call); });
  *saturated += call.saturated.load(std::memory_order_relaxed);
  return AttentionInputTraffic(call);
}

Traffic CpuOps::PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                               const float* q, float* out) {
  const AttentionCall call{shape, batch, kv, layer, q, out};
  attention_.Plan(shape, batch, kv.layout);
  pool_.Run([&](ThreadPool::Context& context) { attention_.Run(call, context, 0); });
  return AttentionTraffic(call);
}

Traffic CpuOps::AttentionTraffic(const AttentionCall& call) const {
  Traffic t;
  t.kv_read_bytes = attention_.KvReadBytes(call);
  t.activation_bytes = 2 * FloatBytes(call.batch.num_rows, call.shape.num_q_heads * call.shape.head_dim);
  return t;
}

// Phases: 1.
void CpuOps::RunProjectAdd(ThreadPool::Context& context, int phase, const Matrix& w, const Products::Inputs& inputs,
                           const int32_t* residual_rows, float* residual) {
  const Matrix* const matrices[1] = {&w};
  products_.Multiply(
      context, phase, matrices, inputs, [&](size_t, int first, int count, int first_row, int rows, const float* block) {
        for (int r = first_row; r < first_row + rows; ++r) {
          const int row = residual_rows != nullptr ? residual_rows[r] : r;
          kernels_->add(block + (r - first_row) * kBlockRows, count, residual + Index(row) * Index(w.rows) + first);
        }
      });
}

Traffic CpuOps::ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual) {
  const Matrix* const matrices[1] = {&w};
  pool_.Run([&](ThreadPool::Context& context) {
    RunProjectAdd(context, 1, w, products_.Prepare(context, 0, matrices, {in}, num_rows), nullptr, residual);
  });
  return ProjectAddTraffic(w, num_rows);
}

Traffic CpuOps::ProjectAddTraffic(const Matrix& w, int num_rows) {
  Traffic t;
  t.weight_bytes = w.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, w.cols + 2 * w.rows);
  return t;
}

// Phases: 1.
void CpuOps::RunGatedFfn(ThreadPool::Context& context, int phase, const Matrix& w_gate, const Matrix& w_up,
                         FfnActivation activation, const Products::Inputs& inputs, float* floats,
                         const Products::Output* records) {
  const Matrix* const matrices[1] = {&w_gate};
  products_.Multiply(
      context, phase, matrices, inputs, [&](size_t, int first, int count, int first_row, int rows, const float* gate) {
        // The same outputs of `up` on the same thread, so that no barrier lies between.
        const float* up = products_.MultiplyAlso(context, w_up, inputs, first, first_row, rows);
        if (records != nullptr) {
          kernels_->gate_to_blocks(activation, gate, up, rows, Products::OutputBlock(*records, first_row, first),
                                   records->layout.bytes());
          return;
        }
        for (int r = 0; r < rows; ++r) {
          kernels_->gate(activation, gate + r * kBlockRows, up + r * kBlockRows, count,
                         floats + Index(first_row + r) * Index(w_up.rows) + first);
        }
      });
}

Traffic CpuOps::GatedFfn(const Matrix& w_gate, const Matrix& w_up, const float* norm, float eps,
                         FfnActivation activation, int num_rows, const float* x, float* out) {
  CHECK_EQ(w_gate.rows, w_up.rows);
  const Matrix* const matrices[2] = {&w_gate, &w_up};
  pool_.Run([&](ThreadPool::Context& context) {
    RunGatedFfn(context, 1, w_gate, w_up, activation,
                products_.Prepare(context, 0, matrices, {x, nullptr, norm, eps}, num_rows), out, nullptr);
  });
  return GatedFfnTraffic(w_gate, w_up, num_rows);
}

Traffic CpuOps::GatedFfnTraffic(const Matrix& w_gate, const Matrix& w_up, int num_rows) {
  Traffic t;
  t.weight_bytes = w_gate.packed_bytes() + w_up.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, w_gate.cols + w_gate.rows);
  return t;
}

Traffic CpuOps::Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows, const float* x,
                       float* logits) {
  const int num_rows = static_cast<int>(rows.size());
  const Matrix* const matrices[1] = {&head};
  pool_.Run([&](ThreadPool::Context& context) {
    const Products::Inputs inputs = products_.Prepare(context, 0, matrices, {x, rows.data(), norm, eps}, num_rows);
    products_.Multiply(context, 1, matrices, inputs,
                       [&](size_t, int first, int count, int first_row, int rows_done, const float* block) {
                         for (int r = 0; r < rows_done; ++r) {
                           std::memcpy(logits + Index(first_row + r) * Index(head.rows) + first, block + r * kBlockRows,
                                       Index(count) * sizeof(float));
                         }
                       });
  });
  Traffic t;
  t.weight_bytes = rows.empty() ? 0 : head.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, head.cols + head.rows);
  return t;
}

Traffic CpuOps::Sample(const float* logits, int vocab, std::span<const SampleParams> params,
                       std::span<SampleResult> results) {
  CHECK_EQ(params.size(), results.size());
  CHECK_LE(vocab, limits_.vocab);
  pool_.Run([&](ThreadPool::Context& context) {
    RowSampler& sampler = scratch_[Index(context.thread())].sampler;
    while (true) {
      const auto i = static_cast<size_t>(context.Next(0));
      if (i >= params.size()) return;
      sampler.Sample(*kernels_, logits + i * Index(vocab), vocab, params[i], &results[i]);
    }
  });
  Traffic t;
  t.activation_bytes = FloatBytes(static_cast<int64_t>(params.size()), vocab);
  return t;
}

}  // namespace dunlin::kernels::cpu
