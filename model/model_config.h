// The shape of a model: every number that the network, the KV cache and the planner need, read from GGUF metadata and
// checked against the tensors. Thread-safety: plain data.
// Errors (ParseModelConfig): kInvalidArgument / kNotFound naming the key or tensor; kUnimplemented for an architecture
// that the table (architectures.h) does not list.
#ifndef DUNLIN_MODEL_MODEL_CONFIG_H_
#define DUNLIN_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf/gguf.h"

namespace dunlin::model {

// Which lanes of a head RoPE turns together.
enum class RopePairing { kAdjacent, kHalves };  // (2i, 2i+1) as GGUF stores llama | (i, i + d/2) "NEOX"
enum class Activation { kSilu, kGeluTanh };

struct ModelConfig {
  std::string architecture;  // general.architecture
  std::string name;          // general.name, or ""
  std::string quantization;  // the type that holds most weight bytes, "Q4_1"
  int num_layers = 0;
  int hidden_size = 0;  // residual stream width
  int ffn_size = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int context_tokens = 0;  // trained context length
  float rms_eps = 0.0f;    // exactly the float32 of the file

  RopePairing rope_pairing = RopePairing::kAdjacent;
  int rope_dims = 0;  // rotary part of a head, even, <= head_dim
  // Angle of pair i at position p is p * rope_inv_freq[i]; scalings and rope_freqs.weight are already applied.
  std::vector<double> rope_inv_freq;  // [rope_dims / 2]
  float rope_attn_factor = 1.0f;      // multiplies cos and sin
  float attn_scale = 0.0f;            // multiplies q.k; 1/sqrt(head_dim) unless the file says otherwise
  int sliding_window = 0;             // 0 = full attention in every layer

  Activation activation = Activation::kSilu;
  bool qkv_bias = false;
  bool qk_norm = false;
  bool post_norms = false;  // gemma3: norms after attention and FFN, before the residual add
  float embedding_scale = 1.0f;
  bool tied_output = false;  // no output.weight: token_embd is the output matrix

  int kv_values_per_token() const { return 2 * num_layers * num_kv_heads * head_dim; }
};

// What a runner needs: refuses (kUnimplemented) an architecture whose ops this build lacks.
absl::StatusOr<ModelConfig> ParseModelConfig(const Gguf& gguf);
// The same without that refusal, for listings and planning: of an architecture that cannot run yet, what its row says.
absl::StatusOr<ModelConfig> ReadModelConfig(const Gguf& gguf);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_MODEL_CONFIG_H_
