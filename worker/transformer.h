// The network, written once for every backend: what one step computes, as the ops of kernels/ops.h.
// Thread-safety: engine thread only.  Borrows: everything.  Errors: none (shapes were checked at load).
// Cost: 5 ops a layer, plus embedding; logits and sampling are separate because they run on chunks of the outputs.
// Source: the llama architecture (arXiv 2302.13971) with grouped-query attention; optional biases and head norms as
// qwen2/qwen3.
#ifndef DUNLIN_WORKER_TRANSFORMER_H_
#define DUNLIN_WORKER_TRANSFORMER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/ops.h"

namespace dunlin::worker {

template <typename Matrix>
struct LayerWeights {
  std::vector<float> attn_norm;               // [hidden]
  Matrix q, k, v;                             // [heads * head_dim, hidden]
  std::vector<float> q_bias, k_bias, v_bias;  // empty = none
  std::vector<float> q_norm, k_norm;          // [head_dim]; empty = none
  Matrix o;                                   // [hidden, q_heads * head_dim]
  std::vector<float> ffn_norm;                // [hidden]
  Matrix gate, up;                            // [ffn, hidden]
  Matrix down;                                // [hidden, ffn]
};

template <typename Matrix>
struct Weights {
  Matrix token_embd;             // [vocab, hidden]
  std::optional<Matrix> output;  // nullopt: tied to token_embd
  std::vector<float> output_norm;
  std::vector<LayerWeights<Matrix>> layers;
  const Matrix& head() const { return output.has_value() ? *output : token_embd; }
};

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

// Scratch of one step; rows = rows of the batch.
struct Activations {
  float* x = nullptr;     // [rows, hidden] the residual stream
  float* q = nullptr;     // [rows, q_heads * head_dim]
  float* attn = nullptr;  // [rows, q_heads * head_dim]
  float* ffn = nullptr;   // [rows, ffn]
};

// Runs every layer over the batch; leaves the residual stream before the final norm in act.x, K and V in the pages.
// *saturated += values that the page format could not hold.
template <kernels::TransformerOps Ops>
kernels::Traffic ForwardStep(Ops& ops, const Network& net, const Weights<typename Ops::Matrix>& weights,
                             const kernels::BatchView& batch, const kernels::PagedKvView& kv, const Activations& act,
                             int64_t* saturated) {
  const auto pointer = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
  kernels::Traffic traffic = ops.Embed(weights.token_embd, batch, net.embedding_scale, act.x);
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    const LayerWeights<typename Ops::Matrix>& w = weights.layers[layer];
    kernels::AttentionInputArgs<typename Ops::Matrix> input;
    input.wq = &w.q;
    input.wk = &w.k;
    input.wv = &w.v;
    input.norm = w.attn_norm.data();
    input.eps = net.eps;
    input.q_bias = pointer(w.q_bias);
    input.k_bias = pointer(w.k_bias);
    input.v_bias = pointer(w.v_bias);
    input.q_norm = pointer(w.q_norm);
    input.k_norm = pointer(w.k_norm);
    input.rope = &net.rope;
    if (!net.kv_rounding.empty()) input.rounding = net.kv_rounding[layer];
    input.layer = static_cast<int>(layer);
    traffic += ops.AttentionInput(input, net.attention, batch, kv, act.x, act.q, saturated);
    traffic += ops.PagedAttention(net.attention, batch, kv, static_cast<int>(layer), act.q, act.attn);
    traffic += ops.ProjectAdd(w.o, batch.num_rows, act.attn, act.x);
    traffic += ops.GatedFfn(w.gate, w.up, w.ffn_norm.data(), net.eps, net.activation, batch.num_rows, act.x, act.ffn);
    traffic += ops.ProjectAdd(w.down, batch.num_rows, act.ffn, act.x);
  }
  return traffic;
}

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_TRANSFORMER_H_
