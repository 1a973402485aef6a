// Cuts a text into the pieces that byte-level BPE merges within, by the regular expressions of a named family.
// Thread-safety: const-safe; each thread has its own match state.  Owns: the compiled expressions.
// Errors: Split: kResourceExhausted when the engine reaches its match limit. The text must be valid UTF-8: the engine
// is told not to check again, since that would make every match cost the whole text. Cost: Split is O(bytes), about 50
// MB/s and more where PCRE2's JIT compiler works, a fifth of that elsewhere. Source: the Split and ByteLevel
// definitions in the published tokenizer.json files; PCRE2 with UTF and Unicode properties.
#ifndef DUNLIN_MODEL_TOKENIZER_PRE_TOKENIZER_H_
#define DUNLIN_MODEL_TOKENIZER_PRE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace dunlin::model {

// One row of the table of known pre-tokenizers.
struct PreTokenizerFamily {
  std::vector<std::string> names;        // spellings of tokenizer.ggml.pre; the first is the usual one
  std::vector<std::string> expressions;  // applied in turn, each to every piece that the one before left
  bool ignore_merges;                    // a piece that is a token is taken whole, whatever the merges say
  bool add_bos;                          // when the file does not say
};

// nullptr for a name that is not in the table.
const PreTokenizerFamily* FindPreTokenizerFamily(absl::string_view name);
// "gpt-2, smollm, ...": every name of the table, for error messages.
std::string KnownPreTokenizers();

class PreTokenizer {
 public:
  static constexpr uint32_t kMatchLimit = 100'000'000;

  // kInvalidArgument when an expression does not compile. No expression may match the empty text.
  static absl::StatusOr<std::unique_ptr<const PreTokenizer>> Create(const std::vector<std::string>& expressions,
                                                                    uint32_t match_limit = kMatchLimit);
  ~PreTokenizer();

  // Replaces *pieces by views into `text` that cover it without gaps; what no expression matches is a piece too.
  absl::Status Split(absl::string_view text, std::vector<absl::string_view>* pieces) const;

 private:
  struct Expression;
  PreTokenizer() = default;

  std::vector<std::unique_ptr<const Expression>> expressions_;
  uint32_t match_limit_ = kMatchLimit;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_PRE_TOKENIZER_H_
