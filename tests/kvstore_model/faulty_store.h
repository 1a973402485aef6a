// A KvStore with one fault planted in it, to show that the comparison with the naive model finds such faults.
// Thread-safety: none.  Owns: the store behind it. Source: ours.
#ifndef DUNLIN_TESTS_KVSTORE_MODEL_FAULTY_STORE_H_
#define DUNLIN_TESTS_KVSTORE_MODEL_FAULTY_STORE_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "kvstore/kv_store.h"

namespace dunlin::testing {

enum class Fault : size_t {
  kLoseCopy,         // a copy-on-write that does not happen
  kLoseSave,         // a host record that holds anything
  kLoseRestore,      // a page that does not come back
  kReverseMoves,     // moves out of order
  kMixNamespaces,    // everybody in one namespace
  kFullTooEarly,     // refuses the last page
  kClaimEverything,  // the same page computed twice
  kForgetPublish,    // nothing is ever found again
  kLoseAdded,        // an event that is not sent
  kLoseRemoved,
  kOneTokenMore,  // a match that says a token too much
  kBadBooks,      // statistics that are off by one
  kCount
};
constexpr std::array<const char*, static_cast<size_t>(Fault::kCount)> kFaultNames = {
    "LoseCopy",        "LoseSave",      "LoseRestore", "ReverseMoves", "MixNamespaces", "FullTooEarly",
    "ClaimEverything", "ForgetPublish", "LoseAdded",   "LoseRemoved",  "OneTokenMore",  "BadBooks"};

class FaultyStore final : public kv::KvStore {
 public:
  FaultyStore(const kv::KvOptions& options, Fault fault) : store_(kv::KvStore::Create(options)), fault_(fault) {}

  kv::MatchResult Match(absl::string_view ns, std::span<const int32_t> tokens, const kv::MatchOptions& o) override {
    kv::MatchResult result = store_->Match(fault_ == Fault::kMixNamespaces ? "" : ns, tokens, o);
    if (fault_ == Fault::kOneTokenMore && result.copied_tokens > 0) ++result.matched_tokens, ++result.copied_tokens;
    return result;
  }
  void Peek(absl::string_view ns, std::span<const int32_t> tokens, kv::PrefixHint* hint) const override {
    store_->Peek(ns, tokens, hint);
  }
  kv::ReserveOutcome Reserve(kv::SequenceId seq, int32_t computed, int32_t num_tokens) override {
    if (fault_ == Fault::kFullTooEarly && store_->AvailablePages() == 1) return kv::ReserveOutcome::kFull;
    return store_->Reserve(seq, computed, num_tokens);
  }
  std::span<const int32_t> PageTable(kv::SequenceId seq) const override { return store_->PageTable(seq); }
  void Publish(kv::SequenceId seq, std::span<const int32_t> tokens) override {
    if (fault_ != Fault::kForgetPublish) store_->Publish(seq, tokens);
  }
  kv::SequenceId Fork(kv::SequenceId seq) override { return store_->Fork(seq); }
  void Truncate(kv::SequenceId seq, int32_t num_tokens) override { store_->Truncate(seq, num_tokens); }
  void Release(kv::SequenceId seq) override { store_->Release(seq); }
  bool Claim(kv::SequenceId seq, int32_t computed, std::span<const int32_t> tokens) override {
    return fault_ == Fault::kClaimEverything || store_->Claim(seq, computed, tokens);
  }
  int32_t Adopt(kv::SequenceId seq, int32_t computed, std::span<const int32_t> tokens) override {
    return store_->Adopt(seq, computed, tokens);
  }
  void EndStep() override { store_->EndStep(); }
  void FailStep() override { store_->FailStep(); }
  void Distrust(kv::SequenceId seq, int32_t from, int32_t to) override { store_->Distrust(seq, from, to); }
  int32_t Absolve() override { return store_->Absolve(); }
  void TakeMoves(std::vector<kv::PageMove>* moves) override {
    std::vector<kv::PageMove> real;
    store_->TakeMoves(&real);
    using Kind = kv::PageMove::Kind;
    std::erase_if(real, [this](const kv::PageMove& m) {
      return (fault_ == Fault::kLoseCopy && m.kind == Kind::kCopy) ||
             (fault_ == Fault::kLoseSave && m.kind == Kind::kSave) ||
             (fault_ == Fault::kLoseRestore && m.kind == Kind::kRestore);
    });
    if (fault_ == Fault::kReverseMoves) std::reverse(real.begin(), real.end());
    moves->insert(moves->end(), real.begin(), real.end());
  }
  int32_t FailRestore(kv::SequenceId seq, kv::PageId page) override { return store_->FailRestore(seq, page); }
  void Pin(kv::PageId page) override { store_->Pin(page); }
  void Unpin(kv::PageId page) override { store_->Unpin(page); }
  int32_t Flush() override { return store_->Flush(); }
  void TakeEvents(kv::CacheEvents* events) override {
    store_->TakeEvents(events);
    if (fault_ == Fault::kLoseAdded && !events->added.empty()) events->added.pop_back();
    if (fault_ == Fault::kLoseRemoved && !events->removed.empty()) events->removed.pop_back();
  }
  void ListHashes(std::vector<uint64_t>* hashes) const override { store_->ListHashes(hashes); }
  kv::KvStats Stats() const override {
    kv::KvStats stats = store_->Stats();
    if (fault_ == Fault::kBadBooks && stats.cached > 0) --stats.cached, ++stats.blank, ++stats.held;
    return stats;
  }
  int32_t AvailablePages() const override { return store_->AvailablePages(); }
  std::string CheckInvariants() const override { return store_->CheckInvariants(); }
  std::string CheckIdle() const override { return store_->CheckIdle(); }
  std::string DebugSnapshot() const override { return store_->DebugSnapshot(); }

 private:
  const std::unique_ptr<kv::KvStore> store_;
  const Fault fault_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_KVSTORE_MODEL_FAULTY_STORE_H_
