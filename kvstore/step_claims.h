// Who computes which page in the step under way, so that nobody else does. One claim per sequence, on the first page
// that it completes: whoever wants a later page of the same chain wants the first one too. A claim lives until Clear.
// Exact: the hash finds the bucket, parent and tokens are compared. Thread-safety: engine thread only.
// Owns: a copy of the claimed page's tokens per sequence, allocated by the constructor.  Cost: O(1), no allocation;
// Clear is O(claims). Source: ours.
#ifndef DUNLIN_KVSTORE_STEP_CLAIMS_H_
#define DUNLIN_KVSTORE_STEP_CLAIMS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace dunlin::kv {

class StepClaims {
 public:
  StepClaims(int32_t max_sequences, int page_tokens);

  // False, and nothing changed, when another sequence has claimed that child of `parent`; otherwise the claim takes the
  // place of the sequence's earlier one.
  bool Claim(int32_t sequence, int32_t parent, const int32_t* tokens, uint64_t hash);
  void Drop(int32_t sequence);
  void Clear();

  int32_t size() const { return static_cast<int32_t>(claimants_.size()); }
  bool has(int32_t sequence) const { return claims_[static_cast<size_t>(sequence)].place >= 0; }
  void AppendSnapshot(std::string* out) const;

 private:
  struct Entry {
    int32_t place = -1;  // in claimants_; -1: no claim
    int32_t next = -1;   // in the bucket
    int32_t parent = -1;
    uint32_t bucket = 0;
  };
  Entry& at(int32_t sequence) { return claims_[static_cast<size_t>(sequence)]; }

  const size_t page_tokens_;
  std::vector<Entry> claims_;     // [max_sequences]
  std::vector<int32_t> tokens_;   // [max_sequences][page_tokens]
  std::vector<int32_t> buckets_;  // a power of two; the first claimant or -1
  std::vector<int32_t> claimants_;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_STEP_CLAIMS_H_
