#include "worker/weights.h"

#include <cmath>

namespace dunlin::worker {

kernels::RopeTable RopeAngles::Table(const model::ModelConfig& config) const {
  kernels::RopeTable table;
  table.cos = cos.data();
  table.sin = sin.data();
  table.dims = config.rope_dims;
  table.pairing = config.rope_pairing == model::RopePairing::kAdjacent ? kernels::RopePairing::kAdjacent
                                                                       : kernels::RopePairing::kHalves;
  return table;
}

RopeAngles ComputeRopeAngles(const model::ModelConfig& config, int max_positions) {
  const size_t half = static_cast<size_t>(config.rope_dims) / 2;
  RopeAngles angles;
  angles.cos.resize(static_cast<size_t>(max_positions) * half);
  angles.sin.resize(angles.cos.size());
  const auto factor = static_cast<double>(config.rope_attn_factor);
  for (size_t p = 0; p < static_cast<size_t>(max_positions); ++p) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * config.rope_inv_freq[i];
      angles.cos[p * half + i] = static_cast<float>(factor * std::cos(angle));
      angles.sin[p * half + i] = static_cast<float>(factor * std::sin(angle));
    }
  }
  return angles;
}

Network DescribeNetwork(const model::ModelConfig& config) {
  Network net;
  net.hidden = config.hidden_size;
  net.ffn = config.ffn_size;
  net.vocab = config.vocab_size;
  net.eps = config.rms_eps;
  net.embedding_scale = config.embedding_scale;
  net.activation =
      config.activation == model::Activation::kSilu ? kernels::FfnActivation::kSilu : kernels::FfnActivation::kGeluTanh;
  net.attention = {config.num_q_heads, config.num_kv_heads, config.head_dim, config.attn_scale, config.sliding_window};
  return net;
}

}  // namespace dunlin::worker
