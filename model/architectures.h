// The table of model architectures: which tensors a model has, their shapes, and what its layers do differently.
// A new model of a known family is a row in architectures.cc, not code.
// Thread-safety: constants and pure functions.  Borrows: the tensor pointers point into the Gguf, which must outlive
// them. Errors: kNotFound for a missing tensor, kInvalidArgument for a wrong shape, kUnimplemented for an architecture
// without a row, a row that is not runnable yet and a tensor that no row names; each names the tensor or architecture
// and what was wanted. Source: tensor names and metadata keys as the published GGUF converters write them.
#ifndef DUNLIN_MODEL_ARCHITECTURES_H_
#define DUNLIN_MODEL_ARCHITECTURES_H_

#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/gguf/gguf.h"
#include "model/model_config.h"

namespace dunlin::model {

// Weights of one layer; shapes as [rows, cols] = [out, in]. nullptr = the model has none.
struct LayerTensors {
  const GgufTensor* attn_norm = nullptr;       // [hidden]
  const GgufTensor* q = nullptr;               // [q_heads * head_dim, hidden]; nullptr with qkv
  const GgufTensor* k = nullptr;               // [kv_heads * head_dim, hidden]; nullptr with qkv
  const GgufTensor* v = nullptr;               // as k
  const GgufTensor* qkv = nullptr;             // fused: the rows of q, then k, then v
  const GgufTensor* q_bias = nullptr;          // [q_heads * head_dim]
  const GgufTensor* k_bias = nullptr;          // [kv_heads * head_dim]
  const GgufTensor* v_bias = nullptr;          // as k_bias
  const GgufTensor* q_norm = nullptr;          // [head_dim], applied per head before RoPE
  const GgufTensor* k_norm = nullptr;          // [head_dim]
  const GgufTensor* o = nullptr;               // [hidden, q_heads * head_dim]
  const GgufTensor* post_attn_norm = nullptr;  // [hidden]
  const GgufTensor* ffn_norm = nullptr;        // [hidden]
  const GgufTensor* gate = nullptr;            // [ffn, hidden]; nullptr with gate_up
  const GgufTensor* up = nullptr;              // as gate
  const GgufTensor* gate_up = nullptr;         // fused: the rows of gate, then up
  const GgufTensor* down = nullptr;            // [hidden, ffn]
  const GgufTensor* post_ffn_norm = nullptr;   // [hidden]
};

struct ModelTensors {
  const GgufTensor* token_embd = nullptr;          // [vocab, hidden]
  const GgufTensor* output_norm = nullptr;         // [hidden]
  const GgufTensor* output = nullptr;              // [vocab, hidden]; nullptr: tied, token_embd is the output matrix
  const GgufTensor* rope_freqs = nullptr;          // [rope_dims / 2], divides the frequencies
  const GgufTensor* rope_factors_long = nullptr;   // [rope_dims / 2]
  const GgufTensor* rope_factors_short = nullptr;  // [rope_dims / 2]
};

// A dimension of a tensor, in terms of the config. kOne as rows means a vector.
enum class Dim { kOne, kHidden, kQ, kKv, kQkv, kFfn, kTwoFfn, kVocab, kHeadDim, kHalfRope };

// One tensor of the table: where it goes, its name, its shape, and whether a file may lack it.
template <typename Tensors>
struct TensorSpec {
  const GgufTensor* Tensors::*field;
  const char* name;  // of a layer's tensor: what follows "blk.N."
  Dim rows;
  Dim cols;
  bool required;
};

enum class EmbeddingScale { kOne, kSqrtHidden };

struct Architecture {
  const char* name;  // general.architecture, and the prefix of its metadata keys
  RopePairing rope_pairing;
  Activation activation;
  EmbeddingScale embedding_scale;
  bool qkv_bias;
  bool qk_norm;
  bool fused_qkv;
  bool fused_gate_up;
  bool post_norms;
  std::span<const TensorSpec<ModelTensors>> model_tensors;
  std::span<const TensorSpec<LayerTensors>> layer_tensors;
  bool runnable;
  const char* missing;  // not runnable: the ops it still lacks
};

std::span<const Architecture> Architectures();
// The row; kUnimplemented naming the architecture and the known ones.
absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view name);

// What `dim` is in this model.
int64_t DimSize(Dim dim, const ModelConfig& config);

// The tensors of `config.architecture`, their shapes checked. 0 <= layer < config.num_layers.
absl::StatusOr<ModelTensors> FindModelTensors(const Gguf& gguf, const ModelConfig& config);
absl::StatusOr<LayerTensors> FindLayerTensors(const Gguf& gguf, const ModelConfig& config, int layer);

// All of the above, and that the file has no tensor that the row does not name (ignoring one would change the answers).
absl::Status CheckTensors(const Gguf& gguf, const ModelConfig& config);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_ARCHITECTURES_H_
