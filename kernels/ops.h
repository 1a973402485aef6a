// THE SPEC of a backend: the nine ops of a transformer step, fused at the size a backend can make fast, and what each
// computes. A backend is a class that satisfies TransformerOps; worker/transformer.h writes the network once over it.
// Every backend has the plain ReferenceOps (reference_ops.h) beside it, and one case table (tests/kernels/op_cases.h)
// tests them all.
//
// Shapes are row-major; a "row" is one token of the step's batch. Activations are f32 at the ops' borders. W is [out,
// in]: y = W x. A row's result depends on that row alone: the order of every reduction follows from its own shapes (K,
// context length), never from the batch, the thread count or the chunking; so batched = alone, bit for bit, on one ISA.
// Thread-safety: one caller at a time per Ops object; ops use the object's own thread pool inside.
// Errors: CHECK on shapes that contradict each other (the caller has validated the model). No allocation after
// Reserve(). Traffic: each op returns the bytes it must move to and from memory: packed weight bytes once per call, KV
// bytes by the pages' format, activations as read plus written at its borders. KV tokens that several rows of a
// sequence see count once; selected pages (and bounds) of prompt chunks may count more often, up to the bytes of all
// pages.
#ifndef DUNLIN_KERNELS_OPS_H_
#define DUNLIN_KERNELS_OPS_H_

#include <concepts>
#include <cstdint>
#include <span>

#include "kernels/attention_mask.h"
#include "kernels/dtype.h"
#include "kernels/kv_rounding.h"
#include "kernels/paged_kv.h"
#include "kernels/sampling.h"

namespace dunlin::kernels {

struct Traffic {
  uint64_t weight_bytes = 0;
  uint64_t kv_read_bytes = 0;
  uint64_t kv_write_bytes = 0;
  uint64_t activation_bytes = 0;
  Traffic& operator+=(const Traffic& o) {
    weight_bytes += o.weight_bytes;
    kv_read_bytes += o.kv_read_bytes;
    kv_write_bytes += o.kv_write_bytes;
    activation_bytes += o.activation_bytes;
    return *this;
  }
};

// cos and sin of every position and pair, computed in double precision from the model's inverse frequencies.
enum class RopePairing : uint8_t { kAdjacent, kHalves };  // (2i, 2i+1) | (i, i + dims/2)
struct RopeTable {
  const float* cos = nullptr;  // [max_positions, dims / 2], already times the attention factor
  const float* sin = nullptr;  // same shape
  int dims = 0;                // rotary part of a head; the rest passes unchanged
  RopePairing pairing = RopePairing::kAdjacent;
};

enum class FfnActivation : uint8_t { kSilu, kGeluTanh };

struct AttentionShape {
  int num_q_heads = 0;
  int num_kv_heads = 0;  // divides num_q_heads; q head h reads kv head h / (num_q_heads / num_kv_heads)
  int head_dim = 0;
  float scale = 0.0f;  // multiplies q.k
  int window = 0;      // 0 = full causal; else position p sees p-window+1 … p
  int sinks = 0;       // with a window: and the tokens 0 … sinks-1
  int top_pages =
      0;  // 0 = every page; else the pages that a row selects (attention_mask.h); needs pages with key bounds

  AttentionPattern pattern() const { return {window, sinks, top_pages}; }
};

// One sequence's part of the batch. Its rows are consecutive; row i has position context_tokens + i.
struct SequenceSlice {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t context_tokens = 0;      // tokens already in its pages before this step
  const int32_t* pages = nullptr;  // [ceil((context_tokens + num_rows) / page_tokens)] ids, in token order
};

// The step's batch as every layer sees it. positions[r] is row r's position in its sequence.
struct BatchView {
  int32_t num_rows = 0;
  const int32_t* token_ids = nullptr;        // [num_rows]
  const int32_t* positions = nullptr;        // [num_rows]
  std::span<const SequenceSlice> sequences;  // disjoint, covering all rows in order
};

// Arguments of AttentionInput, the one op with too many to list. Pointers are borrowed for the call.
template <typename Matrix>
struct AttentionInputArgs {
  const Matrix* wq = nullptr;
  const Matrix* wk = nullptr;
  const Matrix* wv = nullptr;
  const float* norm = nullptr;    // [hidden]
  float eps = 0.0f;               // of every norm here
  const float* q_bias = nullptr;  // [num_q_heads * head_dim] or nullptr; k, v likewise
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  const float* q_norm = nullptr;  // [head_dim] or nullptr
  const float* k_norm = nullptr;
  const RopeTable* rope = nullptr;
  KvRounding rounding;  // of this layer's K and V into 8-bit pages
  int layer = 0;
};

// What a backend must have room for; see Reserve.
struct OpLimits {
  int max_rows = 0;     // rows of one step
  int max_outputs = 0;  // logits rows of one step
  int max_context = 0;  // tokens of one sequence
  int hidden = 0;
  int ffn = 0;
  int vocab = 0;
  AttentionShape attention;
};

// A backend. Ops::Matrix is a weight matrix as that backend packed it at load.
template <typename Ops>
concept TransformerOps = requires(Ops ops, const typename Ops::Matrix& m, const BatchView& batch, const PagedKvView& kv,
                                  const AttentionShape& shape, const AttentionInputArgs<typename Ops::Matrix>& input,
                                  const OpLimits& limits, std::span<const uint8_t> bytes, const float* in, float* out,
                                  int64_t* saturated, std::span<const int32_t> rows,
                                  std::span<const SampleParams> params, std::span<SampleResult> results) {
  // Packs a weight [rows, cols] from its file bytes (any alignment). Done once, at load; the bytes may go away after.
  { ops.Pack(DType::kF32, /*rows=*/1, /*cols=*/1, bytes) } -> std::same_as<typename Ops::Matrix>;
  // Allocates all scratch. Nothing allocates after this.
  { ops.Reserve(limits) } -> std::same_as<void>;

  // x[r] = scale * table row token_ids[r].                                x: [num_rows, hidden]
  { ops.Embed(m, batch, 1.0f, out) } -> std::same_as<Traffic>;

  // h = RmsNorm(x[r]) * norm;  q, k, v = Wq h (+bias), Wk h, Wv h; per-head RmsNorm on q and k where given; RoPE on q
  // and k; k, v go through the page format, as args.rounding says, into the row's slot, and where the pages have key
  // bounds, those of the pages that the step completes are written; q [num_rows, num_q_heads * head_dim] stays f32.
  // *saturated += values that the page format could not hold.             x: [num_rows, hidden]
  { ops.AttentionInput(input, shape, batch, kv, in, out, saturated) } -> std::same_as<Traffic>;

  // out[r] = softmax(scale * q.K) V over positions the mask allows (attention_mask.h), K and V as the pages store them
  // (this step's rows too), p not rounded. out: [num_rows, num_q_heads * head_dim].
  { ops.PagedAttention(shape, batch, kv, /*layer=*/0, in, out) } -> std::same_as<Traffic>;

  // residual[r] += W in[r].                            in: [num_rows, W.cols], residual: [num_rows, W.rows]
  { ops.ProjectAdd(m, batch.num_rows, in, out) } -> std::same_as<Traffic>;

  // h = RmsNorm(x[r]) * norm;  out[r] = act(Wgate h) * (Wup h).           out: [num_rows, ffn]
  { ops.GatedFfn(m, m, in, 1e-5f, FfnActivation::kSilu, batch.num_rows, in, out) } -> std::same_as<Traffic>;

  // For each i: logits[i] = Whead (RmsNorm(x[rows[i]]) * norm).           logits: [rows.size(), vocab]
  { ops.Logits(m, in, 1e-5f, rows, in, out) } -> std::same_as<Traffic>;

  // Draws or judges one token per logits row (sampling.h).                logits: [params.size(), vocab]
  { ops.Sample(in, 0, params, results) } -> std::same_as<Traffic>;
};

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_OPS_H_
