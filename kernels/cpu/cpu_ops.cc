#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr int kRowsPerPass = 256;  // activation rows that stay in the second-level cache while weights stream by
constexpr size_t kAlign = 64;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

uint64_t FloatBytes(int64_t rows, int64_t cols) { return static_cast<uint64_t>(rows * cols) * sizeof(float); }

uint8_t* Aligned(const std::unique_ptr<uint8_t[]>& memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + ((kAlign - address % kAlign) % kAlign);
}

void RotateHead(const RopeTable& rope, int position, float* head) {
  const int half = rope.dims / 2;
  const float* cos = rope.cos + Index(position) * Index(half);
  const float* sin = rope.sin + Index(position) * Index(half);
  const bool adjacent = rope.pairing == RopePairing::kAdjacent;
  for (int i = 0; i < half; ++i) {
    float* a = head + (adjacent ? 2 * i : i);
    float* b = head + (adjacent ? 2 * i + 1 : i + half);
    const float x = *a, y = *b;
    *a = x * cos[i] - y * sin[i];
    *b = x * sin[i] + y * cos[i];
  }
}

void AddBias(const float* bias, int n, float* row) {
  if (bias == nullptr) return;
  for (int i = 0; i < n; ++i) row[i] += bias[i];
}

}  // namespace

CpuOps::CpuOps(int num_threads, Isa isa) : kernels_(&GetKernels(isa)), pool_(num_threads) {}

CpuMatrix CpuOps::Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes) {
  return PackMatrix(type, rows, cols, kernels_->group_rows, bytes, &arena_, &pool_);
}

void CpuOps::Reserve(const OpLimits& limits) {
  limits_ = limits;
  const AttentionShape& a = limits.attention;
  const int q_width = a.num_q_heads * a.head_dim;
  max_cols_ = std::max({limits.hidden, limits.ffn, q_width, 1});
  max_rows_ = std::max({limits.max_rows, limits.max_outputs, 1});
  normed_.assign(Index(max_rows_) * Index(max_cols_), 0.0f);
  record_memory_ =
      std::make_unique<uint8_t[]>(Index(max_rows_) * ActivationLayout{(max_cols_ + 31) / 32 * 32}.bytes() + kAlign);
  records_ = Aligned(record_memory_);
  k_.assign(Index(limits.max_rows) * Index(a.num_kv_heads * a.head_dim), 0.0f);
  v_.assign(k_.size(), 0.0f);
  scratch_.clear();
  scratch_.resize(Index(num_threads()));
  const int block_rows = std::min(max_rows_, kRowsPerPass);
  for (ThreadScratch& s : scratch_) {
    s.row.assign(Index(max_cols_), 0.0f);
    s.expanded_memory = std::make_unique<uint8_t[]>(ExpandedBytes(max_cols_) + kAlign);
    s.expanded = Aligned(s.expanded_memory);
    for (std::vector<float>& block : s.block) block.assign(Index(block_rows) * kBlockRows, 0.0f);
    s.sampler.Reserve(limits.vocab);
  }
  attention_.Reserve(limits, *kernels_, num_threads());
}

void CpuOps::Inputs::Need(const Matrix& w) {
  CHECK(cols == 0 || cols == w.cols) << w.cols;
  cols = w.cols;
  quantized = quantized || IsQuantized(w.kind);
  halves = halves || w.kind == PackedKind::kS8FloatMin16;
  floats = floats || !IsQuantized(w.kind);
}

CpuOps::Inputs CpuOps::MakeInputs(std::initializer_list<const Matrix*> matrices, const float* x,
                                  const float* norm) const {
  Inputs inputs;
  for (const Matrix* m : matrices) inputs.Need(*m);
  CHECK_LE(inputs.cols, max_cols_);
  const float* rows = norm != nullptr ? normed_.data() : x;
  inputs.float_rows = reinterpret_cast<const uint8_t*>(rows);
  inputs.float_stride = Index(inputs.cols) * sizeof(float);
  return inputs;
}

void CpuOps::PrepareRows(ThreadPool::Context& context, int phase, const Inputs& inputs, const float* x,
                         const int32_t* rows, const float* norm, float eps, int num_rows) {
  const ActivationLayout layout{inputs.cols};
  float* scratch_row = scratch_[Index(context.thread())].row.data();
  while (true) {
    const int64_t r = context.Next(phase);
    if (r >= num_rows) return;
    const float* row = x + Index(rows != nullptr ? rows[r] : r) * Index(inputs.cols);
    if (norm != nullptr) {
      float* to = inputs.floats ? normed_.data() + Index(r) * Index(inputs.cols) : scratch_row;
      kernels_->rms_norm(row, norm, eps, inputs.cols, to);
      row = to;
    }
    if (inputs.quantized) kernels_->quantize_row(row, layout, inputs.halves, records_ + Index(r) * layout.bytes());
  }
}

void CpuOps::MultiplyBlock(const Matrix& w, const Inputs& inputs, int first_group, int num_groups, int first_row,
                           int num_rows, uint8_t* expanded, float* out) const {
  MultiplyArgs args;
  args.matrix = &w;
  args.first_group = first_group;
  args.num_groups = num_groups;
  args.row_stride = IsQuantized(w.kind) ? ActivationLayout{w.cols}.bytes() : inputs.float_stride;
  args.rows = (IsQuantized(w.kind) ? records_ : inputs.float_rows) + Index(first_row) * args.row_stride;
  args.num_rows = num_rows;
  args.scratch = expanded;
  args.out = out;
  const int next_group = first_group + num_groups;
  if (next_group < w.num_groups()) {
    args.next = w.group(next_group);
    args.next_bytes = static_cast<size_t>(std::min(num_groups, w.num_groups() - next_group)) * w.group_bytes;
  }
  kernels_->multiply(args);
}

template <typename Emit>
void CpuOps::MultiplyBlocks(ThreadPool::Context& context, int phase, std::span<const Matrix* const> matrices,
                            const Inputs& inputs, int num_rows, Emit emit) {
  ThreadScratch& scratch = scratch_[Index(context.thread())];
  const int block_groups = kBlockRows / kernels_->group_rows;
  const auto num_blocks = [](const Matrix& m) { return (m.rows + kBlockRows - 1) / kBlockRows; };
  int blocks = 0;
  for (const Matrix* m : matrices) blocks += num_blocks(*m);
  const int passes = (num_rows + kRowsPerPass - 1) / kRowsPerPass;
  const int items = blocks * passes;
  // Small enough to balance a busy machine, large enough that reads stay sequential.
  const int chunk = std::clamp(items / (context.num_threads() * 8), 1, 16);
  while (true) {
    const int64_t first = context.Next(phase) * chunk;
    if (first >= items) return;
    for (int item = static_cast<int>(first); item < std::min<int64_t>(first + chunk, items); ++item) {
      const int first_row = item / blocks * kRowsPerPass;
      const int rows = std::min(kRowsPerPass, num_rows - first_row);
      int block = item % blocks;
      size_t index = 0;
      for (; block >= num_blocks(*matrices[index]); ++index) block -= num_blocks(*matrices[index]);
      const Matrix& w = *matrices[index];
      const int group = block * block_groups;
      float* out = scratch.block[0].data();
      MultiplyBlock(w, inputs, group, std::min(block_groups, w.num_groups() - group), first_row, rows, scratch.expanded,
                    out);
      emit(index, block * kBlockRows, std::min(kBlockRows, w.rows - block * kBlockRows), first_row, rows, out);
    }
  }
}

Traffic CpuOps::Embed(const Matrix& table, const BatchView& batch, float scale, float* x) {
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

void CpuOps::FinishRow(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape, int position, float* q,
                       float* k, float* v) const {
  const int dim = shape.head_dim;
  AddBias(args.q_bias, shape.num_q_heads * dim, q);
  AddBias(args.k_bias, shape.num_kv_heads * dim, k);
  AddBias(args.v_bias, shape.num_kv_heads * dim, v);
  for (int h = 0; h < shape.num_q_heads; ++h, q += dim) {
    if (args.q_norm != nullptr) kernels_->rms_norm(q, args.q_norm, args.eps, dim, q);
    RotateHead(*args.rope, position, q);
  }
  for (int h = 0; h < shape.num_kv_heads; ++h, k += dim) {
    if (args.k_norm != nullptr) kernels_->rms_norm(k, args.k_norm, args.eps, dim, k);
    RotateHead(*args.rope, position, k);
  }
}

Traffic CpuOps::AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape,
                               const BatchView& batch, const PagedKvView& kv, const float* x, float* q,
                               int64_t* saturated) {
  CHECK_LE(batch.num_rows, limits_.max_rows);
  const int q_width = shape.num_q_heads * shape.head_dim;
  const int kv_width = shape.num_kv_heads * shape.head_dim;
  CHECK_EQ(args.wq->rows, q_width);
  CHECK_EQ(args.wk->rows, kv_width);
  CHECK_EQ(args.wv->rows, kv_width);
  const Inputs inputs = MakeInputs({args.wq, args.wk, args.wv}, x, args.norm);
  const Matrix* const matrices[3] = {args.wq, args.wk, args.wv};
  float* const outputs[3] = {q, k_.data(), v_.data()};
  const int widths[3] = {q_width, kv_width, kv_width};
  std::atomic<int64_t> total_saturated{0};
  pool_.Run([&](ThreadPool::Context& context) {
    PrepareRows(context, 0, inputs, x, nullptr, args.norm, args.eps, batch.num_rows);
    context.Barrier();
    MultiplyBlocks(context, 1, matrices, inputs, batch.num_rows,
                   [&](size_t m, int first, int count, int first_row, int rows, const float* block) {
                     for (int r = 0; r < rows; ++r) {
                       std::memcpy(outputs[m] + Index(first_row + r) * Index(widths[m]) + first, block + r * kBlockRows,
                                   Index(count) * sizeof(float));
                     }
                   });
    context.Barrier();
    int64_t count = 0;
    size_t s = 0;  // rows come in ascending order, and so do sequences
    while (true) {
      const int64_t r = context.Next(2);
      if (r >= batch.num_rows) break;
      while (batch.sequences[s].first_row + batch.sequences[s].num_rows <= r) ++s;
      const SequenceSlice& sequence = batch.sequences[s];
      float* k_row = k_.data() + Index(r) * Index(kv_width);
      float* v_row = v_.data() + Index(r) * Index(kv_width);
      FinishRow(args, shape, batch.positions[r], q + Index(r) * Index(q_width), k_row, v_row);
      const int token = sequence.context_tokens + static_cast<int>(r) - sequence.first_row;
      uint8_t* page = kv.page(sequence.pages[token / kv.layout.page_tokens]);
      count += kernels_->append_token(kv.layout, page, args.layer, token % kv.layout.page_tokens, k_row, v_row,
                                      args.rounding);
    }
    total_saturated.fetch_add(count, std::memory_order_relaxed);
    if (!kv.layout.has_key_bounds()) return;
    context.Barrier();
    attention_.WriteCompletedBounds(context, 3, batch, kv, args.layer);
  });
  *saturated += total_saturated.load(std::memory_order_relaxed);
  Traffic t;
  t.weight_bytes = args.wq->packed_bytes() + args.wk->packed_bytes() + args.wv->packed_bytes();
  t.kv_write_bytes = kv.layout.AppendBytes({batch.positions, Index(batch.num_rows)});
  t.activation_bytes = FloatBytes(batch.num_rows, inputs.cols + q_width);
  return t;
}

Traffic CpuOps::PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                               const float* q, float* out) {
  const AttentionCall call{shape, batch, kv, layer, q, out};
  attention_.Plan(shape, batch, kv.layout);
  pool_.Run([&](ThreadPool::Context& context) { attention_.Run(call, context, 0); });
  Traffic t;
  t.kv_read_bytes = attention_.KvReadBytes(call);
  t.activation_bytes = 2 * FloatBytes(batch.num_rows, shape.num_q_heads * shape.head_dim);
  return t;
}

Traffic CpuOps::ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual) {
  CHECK_LE(num_rows, max_rows_);
  const Inputs inputs = MakeInputs({&w}, in, nullptr);
  const Matrix* const matrices[1] = {&w};
  pool_.Run([&](ThreadPool::Context& context) {
    PrepareRows(context, 0, inputs, in, nullptr, nullptr, 0.0f, num_rows);
    context.Barrier();
    MultiplyBlocks(context, 1, matrices, inputs, num_rows,
                   [&](size_t, int first, int count, int first_row, int rows, const float* block) {
                     for (int r = 0; r < rows; ++r) {
                       kernels_->add(block + r * kBlockRows, count,
                                     residual + Index(first_row + r) * Index(w.rows) + first);
                     }
                   });
  });
  Traffic t;
  t.weight_bytes = w.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, w.cols + 2 * w.rows);
  return t;
}

Traffic CpuOps::GatedFfn(const Matrix& w_gate, const Matrix& w_up, const float* norm, float eps,
                         FfnActivation activation, int num_rows, const float* x, float* out) {
  CHECK_LE(num_rows, max_rows_);
  CHECK_EQ(w_gate.rows, w_up.rows);
  const Inputs inputs = MakeInputs({&w_gate, &w_up}, x, norm);
  const Matrix* const matrices[1] = {&w_gate};
  pool_.Run([&](ThreadPool::Context& context) {
    PrepareRows(context, 0, inputs, x, nullptr, norm, eps, num_rows);
    context.Barrier();
    ThreadScratch& scratch = scratch_[Index(context.thread())];
    MultiplyBlocks(context, 1, matrices, inputs, num_rows,
                   [&](size_t, int first, int count, int first_row, int rows, const float* gate) {
                     // The same outputs of `up` on the same thread, so that no barrier lies between.
                     const int groups = (count + kernels_->group_rows - 1) / kernels_->group_rows;
                     float* up = scratch.block[1].data();
                     MultiplyBlock(w_up, inputs, first / kernels_->group_rows, groups, first_row, rows,
                                   scratch.expanded, up);
                     for (int r = 0; r < rows; ++r) {
                       kernels_->gate(activation, gate + r * kBlockRows, up + r * kBlockRows, count,
                                      out + Index(first_row + r) * Index(w_up.rows) + first);
                     }
                   });
  });
  Traffic t;
  t.weight_bytes = w_gate.packed_bytes() + w_up.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, w_gate.cols + w_gate.rows);
  return t;
}

Traffic CpuOps::Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows, const float* x,
                       float* logits) {
  const int num_rows = static_cast<int>(rows.size());
  CHECK_LE(num_rows, max_rows_);
  const Inputs inputs = MakeInputs({&head}, x, norm);
  const Matrix* const matrices[1] = {&head};
  pool_.Run([&](ThreadPool::Context& context) {
    PrepareRows(context, 0, inputs, x, rows.data(), norm, eps, num_rows);
    context.Barrier();
    MultiplyBlocks(context, 1, matrices, inputs, num_rows,
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
