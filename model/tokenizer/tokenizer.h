// Text <-> token ids, from a model file's own vocabulary.
// Thread-safety: const-safe; one Tokenizer serves every thread.  Owns: a copy of the vocabulary (the file may be
// closed). Errors: Create: kUnimplemented for an unknown tokenizer model or pre-tokenizer (refused, never guessed),
// kInvalidArgument naming the key when the vocabulary contradicts itself. Encode: kInvalidArgument on invalid UTF-8
// (naming the byte offset) or more than 64 MiB of text, kResourceExhausted when the regex engine reaches its match
// limit. Cost: Encode is O(n log n) in the text's bytes at worst (long pieces), about O(n) in practice. Source: GGUF
// tokenizer keys; byte-level BPE and score-merge ("SPM") as the published tokenizers do them.
#ifndef DUNLIN_MODEL_TOKENIZER_TOKENIZER_H_
#define DUNLIN_MODEL_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/gguf/gguf.h"
#include "model/text_segment.h"

namespace dunlin::model {

using TokenId = int32_t;

class Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(const Gguf& gguf);
  virtual ~Tokenizer() = default;

  struct EncodeOptions {
    bool add_special = false;   // BOS / EOS as the model says
    bool parse_special = true;  // text of control tokens becomes those tokens; user-defined tokens always do
  };
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text, const EncodeOptions& options) const;
  // Encodes segments as one text: only where parse_special differs from segment to segment does the special-token
  // search change; ordinary merges may cross segment borders exactly as if the text were whole.
  virtual absl::StatusOr<std::vector<TokenId>> EncodeSegments(std::span<const TextSegment> segments,
                                                              bool add_special) const = 0;

  // The raw bytes of one token as they appear in the output stream (may be part of a code point). Control tokens give
  // their text when `special_text`, else "". CHECK-fails unless 0 <= id < vocab_size(). Returns a view into the
  // tokenizer.
  virtual absl::string_view TokenBytes(TokenId id, bool special_text) const = 0;
  // True when decoding a sequence drops one leading space of its first token (SPM with add_space_prefix).
  virtual bool strips_leading_space() const = 0;

  int vocab_size() const { return vocab_size_; }
  TokenId bos_id() const { return bos_id_; }  // -1 = none
  TokenId eos_id() const { return eos_id_; }  // -1 = none
  bool add_bos() const { return add_bos_; }
  bool add_eos() const { return add_eos_; }
  // Control tokens and the unknown token. Ordinary text never becomes one, whatever the merges say.
  bool IsControl(TokenId id) const { return is_control_[static_cast<size_t>(id)] != 0; }
  // Every token that ends a generation (eos, eot, eom and the well-known end-of-turn texts), ascending.
  const std::vector<TokenId>& end_of_generation() const { return end_of_generation_; }
  const std::string& model() const { return model_; }        // tokenizer.ggml.model
  const std::string& pre_tokenizer() const { return pre_; }  // tokenizer.ggml.pre, "" when absent

 protected:
  int vocab_size_ = 0;
  TokenId bos_id_ = -1;
  TokenId eos_id_ = -1;
  bool add_bos_ = false;
  bool add_eos_ = false;
  std::vector<uint8_t> is_control_;  // [vocab_size]
  std::vector<TokenId> end_of_generation_;
  std::string model_;
  std::string pre_;
};

// Token ids to text, whole code points at a time: bytes that do not yet form a code point are held back.
// Thread-safety: one stream, one thread.  Borrows: the tokenizer.
class StreamDecoder {
 public:
  // skip_special: control tokens give no text (a chat's usual choice).
  StreamDecoder(const Tokenizer* tokenizer, bool skip_special);
  // Appends the text that `id` completes. Bytes that can never become valid UTF-8 come out as U+FFFD at once.
  void Append(TokenId id, std::string* out);
  // Appends U+FFFD for pending bytes, if any. True when anything was replaced since construction (the text is lossy).
  bool Finish(std::string* out);
  size_t pending_bytes() const { return pending_.size(); }

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool first_ = true;
  bool lossy_ = false;
  std::string pending_;  // <= 3 bytes between calls
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_TOKENIZER_H_
