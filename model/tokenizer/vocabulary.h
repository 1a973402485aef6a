// What a model file says about its tokenizer, as plain data: the seam between the file format and the algorithms.
// Thread-safety: plain data.  Owns: everything.  Errors: see the functions.  Cost: one copy of the vocabulary.
// Source: GGUF keys tokenizer.ggml.*.
#ifndef DUNLIN_MODEL_TOKENIZER_VOCABULARY_H_
#define DUNLIN_MODEL_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf/gguf.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::model {

// The values of tokenizer.ggml.token_type.
enum class TokenType : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// Control and unknown tokens are never the result of ordinary text, and print only when asked for.
inline bool IsSpecial(TokenType type) { return type == TokenType::kControl || type == TokenType::kUnknown; }

struct Vocabulary {
  std::string model;                // "gpt2", "llama"
  std::string pre;                  // "" when absent
  std::vector<std::string> tokens;  // [vocab_size], in the spelling of `model`
  std::vector<TokenType> types;     // [vocab_size], or empty: all normal
  std::vector<float> scores;        // [vocab_size] for "llama"; unused by "gpt2"
  std::vector<std::string> merges;  // "LEFT RIGHT", best first, for "gpt2"; unused by "llama"
  TokenId bos_id = -1;              // -1 = none, here and below
  TokenId eos_id = -1;
  TokenId eot_id = -1;
  TokenId eom_id = -1;
  std::optional<bool> add_bos;  // nullopt: the default of the model or pre-tokenizer
  std::optional<bool> add_eos;
  std::optional<bool> add_space_prefix;
  bool remove_extra_whitespaces = false;

  TokenType type(TokenId id) const { return types.empty() ? TokenType::kNormal : types[static_cast<size_t>(id)]; }
};

// Reads the keys. kInvalidArgument naming the key when it is absent though required, or wrong.
absl::StatusOr<Vocabulary> ReadVocabulary(const Gguf& gguf);

// The tokenizer of a vocabulary from anywhere, checked whole; errors as Tokenizer::Create.
absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateTokenizer(const Vocabulary& vocabulary);

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_VOCABULARY_H_
