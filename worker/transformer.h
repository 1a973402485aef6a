// The network, written once for every backend: what one step computes, as the ops of kernels/ops.h.
// Thread-safety: engine thread only.  Borrows: everything.  Errors: none (shapes were checked at load).
// Cost: 5 ops or one fused call a layer, plus embedding; logits and sampling are separate because they run on chunks of
// the outputs. Source: the llama architecture (arXiv 2302.13971) with grouped-query attention; optional biases and head
// norms as qwen2/qwen3.
#ifndef DUNLIN_WORKER_TRANSFORMER_H_
#define DUNLIN_WORKER_TRANSFORMER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/layer_ops.h"
#include "kernels/ops.h"

namespace dunlin::worker {

// Vector: floats where the backend's ops read them; has data() and empty().
template <typename Matrix, typename Vector = std::vector<float>>
struct LayerWeights {
  Vector attn_norm;               // [hidden]
  Matrix q, k, v;                 // [heads * head_dim, hidden]
  Vector q_bias, k_bias, v_bias;  // empty = none
  Vector q_norm, k_norm;          // [head_dim]; empty = none
  Matrix o;                       // [hidden, q_heads * head_dim]
  Vector ffn_norm;                // [hidden]
  Matrix gate, up;                // [ffn, hidden]
  Matrix down;                    // [hidden, ffn]
};

template <typename Matrix, typename Vector = std::vector<float>>
struct Weights {
  Matrix token_embd;             // [vocab, hidden]
  std::optional<Matrix> output;  // nullopt: tied to token_embd
  Vector output_norm;
  std::vector<LayerWeights<Matrix, Vector>> layers;
  const Matrix& head() const { return output.has_value() ? *output : token_embd; }
};

// A backend whose memory is not the host's brings its own Ops::Vector and makes one with Ops::Upload (weights.h).
template <typename Ops>
concept HasOwnVector = requires {
  typename Ops::Vector;
};
template <typename Ops>
struct VectorOfOps {
  using type = std::vector<float>;
};
template <HasOwnVector Ops>
struct VectorOfOps<Ops> {
  using type = typename Ops::Vector;
};
template <typename Ops>
using WeightsOf = Weights<typename Ops::Matrix, typename VectorOfOps<Ops>::type>;

// The numbers of the network that its ops need.
struct Network {
  int hidden = 0;
  int ffn = 0;
  int vocab = 0;
  float eps = 0.0f;
  float embedding_scale = 1.0f;
  kernels::FfnActivation activation = kernels::FfnActivation::kSilu;
  kernels::AttentionShape attention;
  kernels::RopeTable rope;
  std::vector<kernels::KvRounding> kv_rounding;  // per layer; empty: to nearest
};

// Runs every layer over the batch; leaves the residual stream before the final norm in act.x, for output_rows at least
// (nullopt: all rows), and K and V of all rows in the pages.
// *saturated += values that the page format could not hold.
template <kernels::TransformerOps Ops>
kernels::Traffic ForwardStep(Ops& ops, const Network& net, const WeightsOf<Ops>& weights,
                             const kernels::BatchView& batch, const kernels::PagedKvView& kv,
                             const kernels::Activations& act, std::optional<std::span<const int32_t>> output_rows,
                             int64_t* saturated) {
  const auto pointer = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
  kernels::Traffic traffic = ops.Embed(weights.token_embd, batch, net.embedding_scale, act.x);
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    const auto& w = weights.layers[layer];
    kernels::LayerArgs<typename Ops::Matrix> args;
    args.input.wq = &w.q;
    args.input.wk = &w.k;
    args.input.wv = &w.v;
    args.input.norm = w.attn_norm.data();
    args.input.eps = net.eps;
    args.input.q_bias = pointer(w.q_bias);
    args.input.k_bias = pointer(w.k_bias);
    args.input.v_bias = pointer(w.v_bias);
    args.input.q_norm = pointer(w.q_norm);
    args.input.k_norm = pointer(w.k_norm);
    args.input.rope = &net.rope;
    if (!net.kv_rounding.empty()) args.input.rounding = net.kv_rounding[layer];
    args.input.layer = static_cast<int>(layer);
    args.wo = &w.o;
    args.ffn_norm = w.ffn_norm.data();
    args.w_gate = &w.gate;
    args.w_up = &w.up;
    args.w_down = &w.down;
    args.activation = net.activation;
    if (layer + 1 == weights.layers.size()) args.needed_rows = output_rows;
    traffic += kernels::RunLayer(ops, args, net.attention, batch, kv, act, saturated);
  }
  return traffic;
}

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_TRANSFORMER_H_
