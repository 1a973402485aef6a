// A store with pages of 4 tokens, and short words for what its tests do. Thread-safety: none.
#ifndef DUNLIN_TESTS_KVSTORE_KV_STORE_FIXTURE_H_
#define DUNLIN_TESTS_KVSTORE_KV_STORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "kvstore/kv_store.h"

namespace dunlin::kv {

using Tokens = std::vector<int32_t>;

inline Tokens Range(int32_t first, int32_t n) {
  Tokens t(static_cast<size_t>(n));
  std::iota(t.begin(), t.end(), first);
  return t;
}
inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
inline Tokens Copy(std::span<const int32_t> s) { return {s.begin(), s.end()}; }

inline std::span<const int32_t> First(const Tokens& t, int32_t n) { return std::span(t).first(static_cast<size_t>(n)); }

class KvStoreTest : public ::testing::Test {
 protected:
  void Make(int32_t num_pages, int page_tokens = 4) {
    options_.num_pages = num_pages;
    options_.page_tokens = page_tokens;
    options_.max_sequences = 8;
    options_.max_pages_per_sequence = 16;
    kv_ = KvStore::Create(options_);
  }
  ~KvStoreTest() override {
    if (kv_ == nullptr) return;
    EXPECT_EQ(kv_->CheckInvariants(), "");
  }

  MatchResult Match(const Tokens& tokens, absl::string_view ns = "tenant") { return kv_->Match(ns, tokens, {}); }
  // Computes the rest of `tokens` in one step.
  void Compute(SequenceId seq, int32_t computed, const Tokens& tokens) {
    ASSERT_EQ(kv_->Reserve(seq, computed, static_cast<int32_t>(tokens.size())), ReserveOutcome::kGranted);
    kv_->Publish(seq, tokens);
    kv_->EndStep();
    ASSERT_EQ(kv_->CheckInvariants(), "");
  }
  SequenceId Run(const Tokens& tokens, absl::string_view ns = "tenant") {
    const MatchResult m = Match(tokens, ns);
    Compute(m.sequence, m.matched_tokens, tokens);
    return m.sequence;
  }
  void Cache(const Tokens& tokens, absl::string_view ns = "tenant") { kv_->Release(Run(tokens, ns)); }
  std::vector<PageMove> Moves() {
    std::vector<PageMove> moves;
    kv_->TakeMoves(&moves);
    return moves;
  }
  Tokens Table(SequenceId seq) { return Copy(kv_->PageTable(seq)); }

  KvOptions options_;
  std::unique_ptr<KvStore> kv_;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_TESTS_KVSTORE_KV_STORE_FIXTURE_H_
