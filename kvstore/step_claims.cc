#include "kvstore/step_claims.h"

#include <algorithm>
#include <bit>

#include "kvstore/snapshot.h"

namespace dunlin::kv {

StepClaims::StepClaims(int32_t max_sequences, int page_tokens)
    : page_tokens_(static_cast<size_t>(page_tokens)),
      claims_(static_cast<size_t>(max_sequences)),
      tokens_(claims_.size() * page_tokens_),
      buckets_(std::bit_ceil(2 * claims_.size()), -1) {
  claimants_.reserve(claims_.size());
}

bool StepClaims::Claim(int32_t sequence, int32_t parent, const int32_t* tokens, uint64_t hash) {
  const auto bucket = static_cast<uint32_t>(hash & (buckets_.size() - 1));
  for (int32_t s = buckets_[bucket]; s >= 0; s = at(s).next) {
    if (s != sequence && at(s).parent == parent &&
        std::equal(tokens, tokens + page_tokens_, &tokens_[static_cast<size_t>(s) * page_tokens_])) {
      return false;
    }
  }
  Drop(sequence);
  at(sequence) = {static_cast<int32_t>(claimants_.size()), buckets_[bucket], parent, bucket};
  std::copy_n(tokens, page_tokens_, &tokens_[static_cast<size_t>(sequence) * page_tokens_]);
  buckets_[bucket] = sequence;
  claimants_.push_back(sequence);
  return true;
}

void StepClaims::Drop(int32_t sequence) {
  Entry& e = at(sequence);
  if (e.place < 0) return;
  int32_t* link = &buckets_[e.bucket];
  while (*link != sequence) link = &at(*link).next;
  *link = e.next;
  claimants_[static_cast<size_t>(e.place)] = claimants_.back();
  at(claimants_.back()).place = e.place;
  claimants_.pop_back();
  e = Entry();
}

void StepClaims::Clear() {
  while (!claimants_.empty()) Drop(claimants_.back());
}

void StepClaims::AppendSnapshot(std::string* out) const {
  for (const int32_t s : claimants_) {
    const Entry& e = claims_[static_cast<size_t>(s)];
    for (const int64_t v : {int64_t{s}, int64_t{e.next}, int64_t{e.parent}, int64_t{e.bucket}}) AppendValue(v, out);
    for (size_t t = 0; t < page_tokens_; ++t) AppendValue(tokens_[static_cast<size_t>(s) * page_tokens_ + t], out);
  }
}

}  // namespace dunlin::kv
