// The merge rules of byte-level BPE, applied to one piece: the best-ranked adjacent pair first, the leftmost among
// equals. Thread-safety: const-safe once filled.  Owns: the rules.  Errors: none. Cost: O(n log n) for a piece of n
// symbols; short pieces run without any allocation. Source: Sennrich et al. 2016 (BPE); the order of merging is that of
// the published tokenizers.
#ifndef DUNLIN_MODEL_TOKENIZER_BPE_MERGES_H_
#define DUNLIN_MODEL_TOKENIZER_BPE_MERGES_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::model {

class BpeMerges {
 public:
  void Reserve(size_t rules);
  // Rules come best first. A pair that already has a rule keeps it.
  void Add(TokenId left, TokenId right, TokenId result);

  // Merges `symbols` (token ids; overwritten) as far as the rules go and appends what is left to *out.
  void Apply(std::span<TokenId> symbols, std::vector<TokenId>* out) const;

 private:
  struct Rule {
    TokenId left;
    TokenId right;
    TokenId result;
  };
  static constexpr uint32_t kNone = ~uint32_t{0};

  // The rank of the pair's rule; kNone without one.
  uint32_t RankOf(TokenId left, TokenId right) const;
  void ApplyShort(std::span<TokenId> symbols, std::vector<TokenId>* out) const;
  void ApplyLong(std::span<TokenId> symbols, std::vector<TokenId>* out) const;

  std::vector<Rule> rules_;                        // by rank
  absl::flat_hash_map<uint64_t, uint32_t> ranks_;  // left << 32 | right -> rank
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_TOKENIZER_BPE_MERGES_H_
