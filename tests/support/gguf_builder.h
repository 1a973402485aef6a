// Builds GGUF files in memory, for tests: any metadata and tensors, also wrong ones, and small random llama models that
// run. Thread-safety: plain data; one thread at a time.  Owns: everything it is given. Errors: CHECK-fails on a misuse
// by the test; deliberately bad files come from Raw() and from editing the built bytes. Source: the published GGUF
// specification; the encoders are the published reference rules (round to nearest, no search).
#ifndef DUNLIN_TESTS_SUPPORT_GGUF_BUILDER_H_
#define DUNLIN_TESTS_SUPPORT_GGUF_BUILDER_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/dtype.h"
#include "model/gguf/gguf_file.h"

namespace dunlin::testing {

// The bytes of `values` in `type`: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0. values.size() must be whole blocks.
std::string EncodeRow(kernels::DType type, std::span<const float> values);

// Writes the file in the order of the calls. Every method returns *this.
class GgufBuilder {
 public:
  GgufBuilder& Version(uint32_t version);
  // Pads to `alignment` and says so in general.alignment (unless it is the default, 32).
  GgufBuilder& Alignment(uint32_t alignment);

  GgufBuilder& U32(absl::string_view key, uint32_t value);
  GgufBuilder& I32(absl::string_view key, int32_t value);
  GgufBuilder& U64(absl::string_view key, uint64_t value);
  GgufBuilder& F32(absl::string_view key, float value);
  GgufBuilder& F64(absl::string_view key, double value);
  GgufBuilder& Bool(absl::string_view key, bool value);
  GgufBuilder& String(absl::string_view key, absl::string_view value);
  GgufBuilder& Strings(absl::string_view key, const std::vector<std::string>& values);
  GgufBuilder& I32s(absl::string_view key, const std::vector<int32_t>& values);
  GgufBuilder& F32s(absl::string_view key, const std::vector<float>& values);
  // A value of any type id with any payload bytes.
  GgufBuilder& Raw(absl::string_view key, int32_t type_id, absl::string_view payload);

  // dims[0] is the contiguous one. `data` holds the encoded bytes, of any length.
  GgufBuilder& Tensor(absl::string_view name, const std::vector<int64_t>& dims, int32_t type_id, std::string data);
  // The same, encoding the values (row-major, dims[0] fastest).
  GgufBuilder& Tensor(absl::string_view name, const std::vector<int64_t>& dims, kernels::DType type,
                      std::span<const float> values);

  // Drops a key or a tensor that an earlier call added (all of that name); the next build lacks it.
  GgufBuilder& Remove(absl::string_view key_or_tensor);

  std::string Build() const;

 private:
  struct TensorEntry {
    std::string name;
    std::vector<int64_t> dims;
    int32_t type_id;
    std::string data;
  };
  uint32_t version_ = 3;
  uint32_t alignment_ = 32;
  std::vector<std::pair<std::string, std::string>> keys_;  // key, type id + payload
  std::vector<TensorEntry> tensors_;
};

// A random model of the llama architecture with a byte-level BPE vocabulary (tokenizer.ggml.model "gpt2", pre "gpt-2"):
// ids 0..2 are <|endoftext|>, <|im_start|>, <|im_end|> (BOS 1, EOS 2, none added), then the 256 bytes in the order of
// their values (byte b is id 3 + b), then a few merges. A ChatML template is included. Equal options give equal bytes
// anywhere.
struct TinyLlamaOptions {
  uint64_t seed = 1;
  int num_layers = 2;
  int hidden_size = 64;  // multiple of 32 for the quantised types
  int ffn_size = 128;    // multiple of 32 for the quantised types
  int num_q_heads = 4;
  int num_kv_heads = 2;
  int head_dim = 0;  // 0: hidden_size / num_q_heads; num_q_heads * head_dim is a multiple of 32 for quantised types
  int context_tokens = 256;
  int vocab_size = 0;  // 0: the vocabulary above; more pads it with <|unused_N|>
  float rms_eps = 1e-5f;
  float rope_freq_base = 10000.0f;
  bool tied_output = true;
  bool llama3_rope_freqs = false;  // adds rope_freqs.weight with factors between 1 and 8
  kernels::DType linear_type = kernels::DType::kQ4_1;
  kernels::DType embedding_type = kernels::DType::kQ8_0;
  kernels::DType output_type = kernels::DType::kQ8_0;       // only without tied_output
  std::map<std::string, kernels::DType> tensor_types = {};  // by full tensor name; wins over the three above
};

inline constexpr int kTinyVocabSize = 3 + 256 + 5;

GgufBuilder TinyLlamaBuilder(const TinyLlamaOptions& options);  // to add to, or to spoil, before Build()
std::string BuildTinyLlama(const TinyLlamaOptions& options);

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_GGUF_BUILDER_H_
