// Finds the tokens that are cut out of a text before anything else looks at it: user-defined tokens everywhere, control
// tokens where the text is trusted. Thread-safety: const-safe once filled.  Owns: a copy of the token texts, as a trie.
// Errors: none; texts must be valid UTF-8 and not empty.
// Cost: Find is O(bytes x length of the longest token) at worst, about O(bytes) in practice.
// Source: added tokens as the Hugging Face tokenizers match them: leftmost first, the longest at one place.
#ifndef DUNLIN_MODEL_TOKENIZER_SPECIAL_TOKENS_H_
#define DUNLIN_MODEL_TOKENIZER_SPECIAL_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::model {

class SpecialTokens {
 public:
  // A stretch of the text in which control tokens count. A control token must lie inside one stretch whole.
  struct Trusted {
    size_t begin;
    size_t end;
  };
  struct Match {
    size_t begin;
    size_t length;  // 0 = no match
    TokenId id;
  };

  // Of two tokens with one text the first added stays.
  void Add(absl::string_view text, TokenId id, bool is_control);

  // The first match at or after `from`. `trusted` is ascending and disjoint; `*next_trusted` (0 at first) remembers how
  // far earlier calls on the same text have come in it.
  Match Find(absl::string_view text, size_t from, const std::vector<Trusted>& trusted, size_t* next_trusted) const;

 private:
  struct Node {
    TokenId id = -1;  // the token that ends here
    bool is_control = false;
  };
  Match LongestAt(absl::string_view text, size_t begin, size_t trusted_end) const;

  std::vector<Node> nodes_ = {Node{}};
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node
  std::array<bool, 256> starts_ = {};              // bytes that some token starts with
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_SPECIAL_TOKENS_H_
