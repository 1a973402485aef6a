// The random llama models of gguf_builder.h.
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/support/gguf_builder.h"

namespace dunlin::testing {
namespace {

using kernels::DType;

// Nearly normal numbers from integer arithmetic alone, so that every platform draws the same ones.
class Noise {
 public:
  explicit Noise(uint64_t seed) : rng_(seed) {}
  std::vector<float> Draw(int64_t count, double mean, double deviation) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& v : out) {
      double sum = 0.0;  // of four uniform numbers: variance 4/12
      for (int i = 0; i < 4; ++i) sum += static_cast<double>(rng_() >> 11) * 0x1p-53 - 0.5;
      v = static_cast<float>(mean + deviation * sum * 1.7320508075688772);
    }
    return out;
  }

 private:
  std::mt19937_64 rng_;
};

void AppendUtf8(uint32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
  } else {
    out->push_back(static_cast<char>(0xC0 | (code_point >> 6)));
    out->push_back(static_cast<char>(0x80 | (code_point & 63)));
  }
}

// GPT-2's printable stand-in for each byte: printable Latin-1 stands for itself, the rest for 256, 257, ...
std::vector<std::string> ByteTokens() {
  std::vector<std::string> out;
  uint32_t next = 256;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    std::string token;
    AppendUtf8(itself ? b : next++, &token);
    out.push_back(token);
  }
  return out;
}

constexpr char kChatMl[] =
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

void AddVocabulary(int vocab_size, GgufBuilder* b) {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  std::vector<int32_t> types(tokens.size(), 3);  // control
  for (const std::string& t : ByteTokens()) tokens.push_back(t);
  const std::vector<std::string> merges = {"h e", "l l", "ll o", "Ġ t", "Ġt he"};
  for (const char* merged : {"he", "ll", "llo", "Ġt", "Ġthe"}) tokens.emplace_back(merged);
  CHECK_EQ(tokens.size(), static_cast<size_t>(kTinyVocabSize));
  types.resize(tokens.size(), 1);  // normal
  while (tokens.size() < static_cast<size_t>(vocab_size)) {
    tokens.push_back(absl::StrCat("<|unused_", tokens.size(), "|>"));
    types.push_back(5);
  }
  b->String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "gpt-2");
  b->Strings("tokenizer.ggml.tokens", tokens).I32s("tokenizer.ggml.token_type", types);
  b->Strings("tokenizer.ggml.merges", merges);
  b->U32("tokenizer.ggml.bos_token_id", 1).U32("tokenizer.ggml.eos_token_id", 2);
  b->U32("tokenizer.ggml.padding_token_id", 2).Bool("tokenizer.ggml.add_bos_token", false);
  b->String("tokenizer.chat_template", kChatMl);
}

void AddMetadata(const TinyLlamaOptions& o, int head_dim, int vocab_size, GgufBuilder* b) {
  b->String("general.architecture", "llama").String("general.name", absl::StrCat("tiny llama ", o.seed));
  b->U32("general.quantization_version", 2);
  b->U32("llama.block_count", static_cast<uint32_t>(o.num_layers));
  b->U32("llama.context_length", static_cast<uint32_t>(o.context_tokens));
  b->U32("llama.embedding_length", static_cast<uint32_t>(o.hidden_size));
  b->U32("llama.feed_forward_length", static_cast<uint32_t>(o.ffn_size));
  b->U32("llama.attention.head_count", static_cast<uint32_t>(o.num_q_heads));
  b->U32("llama.attention.head_count_kv", static_cast<uint32_t>(o.num_kv_heads));
  b->U32("llama.attention.key_length", static_cast<uint32_t>(head_dim));
  b->U32("llama.attention.value_length", static_cast<uint32_t>(head_dim));
  b->U32("llama.rope.dimension_count", static_cast<uint32_t>(head_dim));
  b->F32("llama.rope.freq_base", o.rope_freq_base);
  b->F32("llama.attention.layer_norm_rms_epsilon", o.rms_eps);
  b->U32("llama.vocab_size", static_cast<uint32_t>(vocab_size));
}

// Adds tensors in order, each drawn from the one stream of noise.
class TensorWriter {
 public:
  TensorWriter(const TinyLlamaOptions& options, GgufBuilder* builder)
      : options_(options), builder_(builder), noise_(options.seed) {}

  void Matrix(const std::string& name, int in, int out, DType type, double deviation) {
    Add(name, {in, out}, type, noise_.Draw(int64_t{in} * out, 0.0, deviation));
  }
  void Linear(const std::string& name, int in, int out) {
    Matrix(name, in, out, options_.linear_type, 1.0 / std::sqrt(static_cast<double>(in)));
  }
  void Norm(const std::string& name, int width) { Add(name, {width}, DType::kF32, noise_.Draw(width, 1.0, 0.1)); }
  void Add(const std::string& name, const std::vector<int64_t>& dims, DType type, const std::vector<float>& values) {
    const auto it = options_.tensor_types.find(name);
    builder_->Tensor(name, dims, it == options_.tensor_types.end() ? type : it->second, values);
  }

 private:
  const TinyLlamaOptions& options_;
  GgufBuilder* const builder_;
  Noise noise_;
};

void AddTensors(const TinyLlamaOptions& o, int head_dim, int vocab_size, GgufBuilder* b) {
  const int q = o.num_q_heads * head_dim;
  const int kv = o.num_kv_heads * head_dim;
  TensorWriter w(o, b);
  // Small embeddings: the blocks then decide the output, and a tied model does not just repeat its last token.
  w.Matrix("token_embd.weight", o.hidden_size, vocab_size, o.embedding_type, 0.3);
  for (int layer = 0; layer < o.num_layers; ++layer) {
    const std::string blk = absl::StrCat("blk.", layer, ".");
    w.Norm(blk + "attn_norm.weight", o.hidden_size);
    w.Linear(blk + "attn_q.weight", o.hidden_size, q);
    w.Linear(blk + "attn_k.weight", o.hidden_size, kv);
    w.Linear(blk + "attn_v.weight", o.hidden_size, kv);
    w.Linear(blk + "attn_output.weight", q, o.hidden_size);
    w.Norm(blk + "ffn_norm.weight", o.hidden_size);
    w.Linear(blk + "ffn_gate.weight", o.hidden_size, o.ffn_size);
    w.Linear(blk + "ffn_up.weight", o.hidden_size, o.ffn_size);
    w.Linear(blk + "ffn_down.weight", o.ffn_size, o.hidden_size);
  }
  w.Norm("output_norm.weight", o.hidden_size);
  if (!o.tied_output) w.Matrix("output.weight", o.hidden_size, vocab_size, o.output_type, 0.3);
  if (o.llama3_rope_freqs) {
    std::vector<float> factors(static_cast<size_t>(head_dim / 2));
    for (size_t i = 0; i < factors.size(); ++i) {
      factors[i] = 1.0f + 7.0f * static_cast<float>(i) / static_cast<float>(factors.size());
    }
    w.Add("rope_freqs.weight", {head_dim / 2}, DType::kF32, factors);
  }
}

}  // namespace

GgufBuilder TinyLlamaBuilder(const TinyLlamaOptions& options) {
  const int head_dim = options.head_dim != 0 ? options.head_dim : options.hidden_size / options.num_q_heads;
  const int vocab_size = options.vocab_size != 0 ? options.vocab_size : kTinyVocabSize;
  CHECK_GE(vocab_size, kTinyVocabSize);
  GgufBuilder builder;
  AddMetadata(options, head_dim, vocab_size, &builder);
  AddVocabulary(vocab_size, &builder);
  AddTensors(options, head_dim, vocab_size, &builder);
  return builder;
}

std::string BuildTinyLlama(const TinyLlamaOptions& options) { return TinyLlamaBuilder(options).Build(); }

}  // namespace dunlin::testing
