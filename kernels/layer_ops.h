// One layer of the network as one call. A backend may offer it beside the ops of ops.h to save the borders between
// them: same arguments, same results bit for bit as the five ops in their order (ComposeLayer). Thread-safety, errors:
// as the ops.  Source: the llama architecture (arXiv 2302.13971).
#ifndef DUNLIN_KERNELS_LAYER_OPS_H_
#define DUNLIN_KERNELS_LAYER_OPS_H_

#include <concepts>
#include <cstdint>
#include <optional>
#include <span>

#include "kernels/ops.h"

namespace dunlin::kernels {

// Scratch of one step; rows = rows of the batch.
struct Activations {
  float* x = nullptr;     // [rows, hidden] the residual stream
  float* q = nullptr;     // [rows, q_heads * head_dim]
  float* attn = nullptr;  // [rows, q_heads * head_dim]
  float* ffn = nullptr;   // [rows, ffn]
};

// Pointers are borrowed for the call.
template <typename Matrix>
struct LayerArgs {
  AttentionInputArgs<Matrix> input;  // its eps is that of every norm here
  const Matrix* wo = nullptr;
  const float* ffn_norm = nullptr;  // [hidden]
  const Matrix* w_gate = nullptr;
  const Matrix* w_up = nullptr;
  const Matrix* w_down = nullptr;
  FfnActivation activation = FfnActivation::kSilu;
  // The rows of x that anybody reads after the layer, ascending; a backend may leave the others with anything.
  // nullopt = all.
  std::optional<std::span<const int32_t>> needed_rows;
};

// x becomes the layer's output; q, attn and ffn are left with anything.
template <typename Ops>
concept LayerOps = TransformerOps<Ops> &&
    requires(Ops ops, const LayerArgs<typename Ops::Matrix>& args, const AttentionShape& shape, const BatchView& batch,
             const PagedKvView& kv, const Activations& act, int64_t* saturated) {
  { ops.Layer(args, shape, batch, kv, act, saturated) } -> std::same_as<Traffic>;
};

template <TransformerOps Ops>
Traffic ComposeLayer(Ops& ops, const LayerArgs<typename Ops::Matrix>& args, const AttentionShape& shape,
                     const BatchView& batch, const PagedKvView& kv, const Activations& act, int64_t* saturated) {
  Traffic traffic = ops.AttentionInput(args.input, shape, batch, kv, act.x, act.q, saturated);
  traffic += ops.PagedAttention(shape, batch, kv, args.input.layer, act.q, act.attn);
  traffic += ops.ProjectAdd(*args.wo, batch.num_rows, act.attn, act.x);
  traffic += ops.GatedFfn(*args.w_gate, *args.w_up, args.ffn_norm, args.input.eps, args.activation, batch.num_rows,
                          act.x, act.ffn);
  traffic += ops.ProjectAdd(*args.w_down, batch.num_rows, act.ffn, act.x);
  return traffic;
}

// The backend's own layer where it has one.
template <TransformerOps Ops>
Traffic RunLayer(Ops& ops, const LayerArgs<typename Ops::Matrix>& args, const AttentionShape& shape,
                 const BatchView& batch, const PagedKvView& kv, const Activations& act, int64_t* saturated) {
  if constexpr (LayerOps<Ops>) {
    return ops.Layer(args, shape, batch, kv, act, saturated);
  } else {
    return ComposeLayer(ops, args, shape, batch, kv, act, saturated);
  }
}

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_LAYER_OPS_H_
