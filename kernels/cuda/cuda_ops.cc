#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "kernels/attention_mask.h"
#include "kernels/cuda/append.h"
#include "kernels/cuda/tokens.h"

namespace dunlin::kernels::cuda {
namespace {

size_t Index(int n) { return static_cast<size_t>(n); }
uint64_t FloatBytes(int64_t rows, int64_t width) { return static_cast<uint64_t>(rows * width) * sizeof(float); }

int QueryWidth(const AttentionShape& s) { return s.num_q_heads * s.head_dim; }
int KeyWidth(const AttentionShape& s) { return s.num_kv_heads * s.head_dim; }
int WidestInput(const OpLimits& l) { return std::max({l.hidden, l.ffn, QueryWidth(l.attention)}); }

AttentionLimits AttentionLimitsOf(const OpLimits& l, int max_sequences) {
  AttentionLimits limits;
  limits.max_rows = l.max_rows;
  limits.max_decode_rows = static_cast<int>(std::min<int64_t>(l.max_rows, int64_t{max_sequences} * (kPrefillRows - 1)));
  limits.max_context = l.max_context;
  limits.shape = l.attention;
  return limits;
}

// What the rows of a step read and write of one layer's pages.
Traffic LayerKvTraffic(const BatchView& batch, const AttentionPattern& pattern, const PageLayout& layout) {
  Traffic t;
  for (const SequenceSlice& s : batch.sequences) {
    const SeenRuns seen = TokensSeen(pattern, s.context_tokens, s.context_tokens + s.num_rows - 1);
    t.kv_read_bytes += static_cast<uint64_t>(seen.Count()) * layout.TokenLayerBytes();
  }
  t.kv_write_bytes = layout.AppendBytes({batch.positions, Index(batch.num_rows)});
  return t;
}

}  // namespace

CudaMatrix CudaOps::Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes) {
  CudaMatrix matrix;
  if (!out_of_memory_ && !PackMatrix(type, rows, cols, bytes, &arena_, &matrix)) out_of_memory_ = true;
  return matrix;
}

const void* CudaOps::UploadBytes(const void* bytes, size_t size) {
  if (out_of_memory_ || size == 0) return nullptr;
  uint8_t* const to = arena_.Add(size);
  if (to == nullptr) {
    out_of_memory_ = true;
    return nullptr;
  }
  device_->CopyToDevice(to, bytes, size);
  device_->Synchronize();  // the caller's values may go away
  return to;
}

uint64_t CudaOps::ScratchBytes(const Device& device, const OpLimits& l, int max_sequences) {
  const auto stride = static_cast<uint64_t>(PreparedStride(WidestInput(l)));
  const uint64_t prepared = static_cast<uint64_t>(l.max_rows) * (stride * 2 + 16 + stride / 4);
  return prepared + 2 * FloatBytes(l.max_rows, KeyWidth(l.attention)) +
         AttentionWorkspaceBytes(device, AttentionLimitsOf(l, max_sequences)) +
         RowDraws::Bytes(l.max_outputs, l.vocab) + static_cast<uint64_t>(l.max_rows) * sizeof(int32_t);
}

void CudaOps::Reserve(const OpLimits& limits) {
  limits_ = limits;
  attention_limits_ = AttentionLimitsOf(limits, max_sequences_);
  prepared_ = PreparedBuffer(device_, limits.max_rows, WidestInput(limits));
  const size_t kv_values = Index(limits.max_rows) * Index(KeyWidth(limits.attention));
  k_ = DeviceBuffer<float>(device_, kv_values);
  v_ = DeviceBuffer<float>(device_, kv_values);
  attention_workspace_ = DeviceBuffer<uint8_t>(device_, AttentionWorkspaceBytes(*device_, attention_limits_));
  saturated_ = DeviceBuffer<uint32_t>(device_, 1);
  draws_ = RowDraws(device_, limits.max_outputs, limits.vocab);
  drawn_ = DeviceBuffer<int32_t>(device_, Index(limits.max_rows));
  if (!prepared_.ok() || k_.data() == nullptr || v_.data() == nullptr || attention_workspace_.data() == nullptr ||
      saturated_.data() == nullptr || drawn_.data() == nullptr || !draws_.ok()) {
    out_of_memory_ = true;
  }
}

void CudaOps::BeginStep(const Step& step, const AttentionShape& shape, const PagedKvView& kv) {
  CHECK(kv.layout.order == SlabOrder::kDevice);
  CHECK_LE(step.batch.max_rows, limits_.max_rows);
  step_ = step;
  layer_kv_ = LayerKvTraffic(step.view, shape.pattern(), kv.layout);
  if (!step.launch) return;
  device_->Fill(saturated_.data(), 0, sizeof(uint32_t));
  ResolveTokens(device_, step.batch, drawn_.data());
  PlanAttention(device_, attention_limits_, step.batch, {kv.base, kv.layout}, attention_workspace_.data());
}

void CudaOps::FetchSaturated(uint32_t* to) { device_->CopyToHost(to, saturated_.data(), sizeof(uint32_t)); }

PreparedRows CudaOps::PrepareFor(const Matrix& w, RowsToPrepare from, int rows, const int32_t* num_rows) {
  const PreparedRows to = w.takes_codes() ? prepared_.Codes(rows, w.cols) : prepared_.Halves(rows, w.cols);
  from.num_rows = num_rows;
  Prepare(device_, from, to);
  return to;
}

Traffic CudaOps::Embed(const Matrix& table, const BatchView& batch, float scale, float* x) {
  if (step_.launch) cuda::Embed(device_, table, step_.batch, scale, x);
  Traffic t;
  t.weight_bytes = table.packed_bytes() / Index(table.rows) * Index(batch.num_rows);
  t.activation_bytes = FloatBytes(batch.num_rows, table.cols);
  return t;
}

Traffic CudaOps::AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape,
                                const BatchView& batch, const PagedKvView& kv, const float* x, float* q, int64_t*) {
  CHECK_EQ(args.wq->rows, QueryWidth(shape));
  CHECK_EQ(args.wk->rows, KeyWidth(shape));
  CHECK_EQ(args.wv->rows, KeyWidth(shape));
  if (step_.launch) {
    const int32_t* const num_rows = &step_.batch.counts->num_rows;
    const std::array<ProductPart, 3> all = {{{args.wq, {q, QueryWidth(shape), args.q_bias}},
                                             {args.wk, {k_.data(), KeyWidth(shape), args.k_bias}},
                                             {args.wv, {v_.data(), KeyWidth(shape), args.v_bias}}}};
    for (const bool codes : {true, false}) {
      std::array<ProductPart, 3> alike;
      const auto end = std::copy_if(all.begin(), all.end(), alike.begin(),
                                    [codes](const ProductPart& p) { return p.matrix->takes_codes() == codes; });
      if (end == alike.begin()) continue;
      const PreparedRows in =
          PrepareFor(*alike[0].matrix, {.x = x, .norm = args.norm, .eps = args.eps}, step_.batch.max_rows, num_rows);
      MultiplyParts(device_, alike.data(), static_cast<int>(end - alike.begin()), in, num_rows);
    }
    AppendArgs append;
    append.shape = shape;
    append.q = q;
    append.k = k_.data();
    append.v = v_.data();
    append.q_norm = args.q_norm;
    append.k_norm = args.k_norm;
    append.eps = args.eps;
    append.rope = *args.rope;
    append.rounding = args.rounding;
    append.layer = args.layer;
    append.saturated = saturated_.data();
    RotateAndAppend(device_, append, step_.batch, {kv.base, kv.layout});
  }
  Traffic t;
  t.weight_bytes = args.wq->packed_bytes() + args.wk->packed_bytes() + args.wv->packed_bytes();
  t.kv_write_bytes = layer_kv_.kv_write_bytes;
  t.activation_bytes = FloatBytes(batch.num_rows, args.wq->cols + args.wq->rows);
  return t;
}

Traffic CudaOps::PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                                const float* q, float* out) {
  if (step_.launch) {
    AttentionCallArgs call;
    call.shape = shape;
    call.layer = layer;
    call.q = q;
    call.out = out;
    call.workspace = attention_workspace_.data();
    const DevicePages pages{kv.base, kv.layout};
    DecodeAttention(device_, call, attention_limits_, step_.batch, pages);
    if (step_.has_prefill) PrefillAttention(device_, call, step_.batch, pages);
  }
  Traffic t;
  t.kv_read_bytes = layer_kv_.kv_read_bytes;
  t.activation_bytes = 2 * FloatBytes(batch.num_rows, QueryWidth(shape));
  return t;
}

Traffic CudaOps::ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual) {
  if (step_.launch) {
    const int32_t* const on_device = &step_.batch.counts->num_rows;
    const PreparedRows rows = PrepareFor(w, {.x = in}, step_.batch.max_rows, on_device);
    Multiply(device_, w, rows, on_device, {.out = residual, .ld = w.rows, .add = true});
  }
  Traffic t;
  t.weight_bytes = w.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, w.cols + 2 * w.rows);
  return t;
}

Traffic CudaOps::GatedFfn(const Matrix& gate, const Matrix& up, const float* norm, float eps, FfnActivation activation,
                          int num_rows, const float* x, float* out) {
  CHECK_EQ(gate.rows, up.rows);
  if (step_.launch) {
    const int32_t* const on_device = &step_.batch.counts->num_rows;
    const RowsToPrepare from{.x = x, .norm = norm, .eps = eps};
    const PreparedRows rows = PrepareFor(gate, from, step_.batch.max_rows, on_device);
    if (gate.takes_codes() == up.takes_codes()) {
      MultiplyGated(device_, gate, up, activation, rows, on_device, out);
    } else {
      Multiply(device_, gate, rows, on_device, {.out = out, .ld = gate.rows});
      Multiply(device_, up, PrepareFor(up, from, step_.batch.max_rows, on_device), on_device,
               {.out = out, .ld = up.rows, .gate = true, .activation = activation});
    }
  }
  Traffic t;
  t.weight_bytes = gate.packed_bytes() + up.packed_bytes();
  t.activation_bytes = FloatBytes(num_rows, gate.cols + gate.rows);
  return t;
}

Traffic CudaOps::Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows, const float* x,
                        float* logits) {
  if (rows.empty()) return {};
  const std::ptrdiff_t first = rows.data() - step_.output_rows.data();
  const auto count = static_cast<int>(rows.size());
  CHECK(first >= 0 && Index(count) <= step_.output_rows.size() - static_cast<size_t>(first));
  CHECK_LE(count, limits_.max_outputs);
  const RowsToPrepare from{.x = x, .rows = step_.batch.output_rows + first, .norm = norm, .eps = eps};
  const PreparedRows prepared = PrepareFor(head, from, count, nullptr);
  Multiply(device_, head, prepared, nullptr, {.out = logits, .ld = head.rows});
  Traffic t;
  t.weight_bytes = head.packed_bytes();
  t.activation_bytes = FloatBytes(count, head.cols + head.rows);
  return t;
}

Traffic CudaOps::StartSample(const float* logits, int vocab, std::span<const SampleParams> params,
                             size_t first_output) {
  if (params.empty()) return {};
  CHECK_LE(vocab, limits_.vocab);
  CHECK_LE(first_output + params.size(), drawn_.size());
  draws_.Start(logits, vocab, params, drawn_.data() + first_output);
  Traffic t;
  t.activation_bytes = FloatBytes(static_cast<int64_t>(params.size()), vocab);
  return t;
}

Traffic CudaOps::Sample(const float* logits, int vocab, std::span<const SampleParams> params,
                        std::span<SampleResult> results) {
  CHECK_EQ(params.size(), results.size());
  if (params.empty()) return {};
  const Traffic t = StartSample(logits, vocab, params, 0);
  device_->Synchronize();
  FinishSample(results);
  return t;
}

}  // namespace dunlin::kernels::cuda
