// The engine's dealings with the KV store: which pages a sequence is promised, gets and gives back, and the moves that
// follow from it. A running sequence is promised pages at admission; what it takes beyond its promise comes from the
// pages promised to nobody, so a promise is always kept and the sum of what is outstanding is one counter.
// Thread-safety: engine thread only.  Owns: the KV store.  Borrows: the runner, the clock.
// Errors: a lost device as absl::Status; too few pages is a return value and changes nothing. Cost: O(pages touched).
#ifndef DUNLIN_WORKER_ENGINE_SEQUENCE_PAGES_H_
#define DUNLIN_WORKER_ENGINE_SEQUENCE_PAGES_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kvstore/kv_store.h"
#include "worker/engine/engine.h"
#include "worker/engine/restore_policy.h"
#include "worker/engine/sequence.h"
#include "worker/model_runner.h"

namespace dunlin::worker {

class SequencePages {
 public:
  SequencePages(const EngineOptions& options, int max_model_len, ModelRunner* runner, const Clock* clock);

  // ---- Admission ----
  // Tokens of the sequence in whole pages of the cache; O(1) for one that looked before.
  int32_t CachedTokens(Sequence* s) const;
  // Opens the sequence with what the cache has of its tokens and a promise of `promised_pages` in all. False, and
  // nothing stays, when that promise cannot be kept beside the others; it can when spare() >= promised_pages.
  absl::StatusOr<bool> Open(Sequence* s, int32_t promised_pages);
  // Gives everything back; what is published stays cached.
  void Close(Sequence* s);

  // ---- One step ----
  // Shares what others published of the sequence's next pages; how many tokens.
  int32_t Adopt(Sequence* s);
  // False: another sequence computes the next page of this one in this very step.
  bool Claim(const Sequence& s, int32_t num_rows);
  // Pages for the sequence's next `num_rows` rows.
  kv::ReserveOutcome Grow(Sequence* s, int32_t num_rows);
  // Pages that its next `num_rows` rows need beyond what it has and was promised.
  int32_t PagesBeyond(const Sequence& s, int32_t num_rows) const;
  // The largest number of rows that Grow would grant.
  int32_t AffordableRows(const Sequence& s) const;
  // Gives up what only rows beyond its computed tokens needed.
  void DropDraft(Sequence* s);
  // Has the runner move what has to be moved before the step.
  absl::Status RunMoves();
  // The full pages of tokens that are computed, or in flight, and known.
  void Publish(Sequence* s);
  void EndStep() { kv_->EndStep(); }
  // The device is lost: what the step wrote is not trusted.
  void FailStep() { kv_->FailStep(); }
  // The same for a step that was in flight: of these tokens.
  void Distrust(const Sequence& s, int32_t from, int32_t to) { kv_->Distrust(*s.kv, from, to); }

  std::span<const int32_t> TableOf(const Sequence& s) const { return kv_->PageTable(*s.kv); }
  // Pages promised to nobody; below 0 only while pages are pinned or set aside.
  int32_t spare() const { return kv_->AvailablePages() - reserved_; }
  int32_t available() const { return kv_->AvailablePages(); }
  int32_t PagesFor(int32_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }
  int page_tokens() const { return page_tokens_; }
  RestorePolicy& restore_policy() { return restore_policy_; }
  // A step is in flight: what moves take now does not say how fast they are.
  void set_device_busy(bool busy) { device_busy_ = busy; }

  int32_t Flush() { return kv_->Flush(); }
  void TakeEvents(kv::CacheEvents* events) { kv_->TakeEvents(events); }

  // The page and host tier fields of *stats.
  void FillStats(EngineStats* stats) const;
  // "" or what is wrong, given every running sequence.
  std::string CheckInvariants(std::span<const std::unique_ptr<Sequence>> running) const;
  std::string CheckIdle() const;

 private:
  absl::Status Restore(Sequence* s, kv::MatchResult* match);
  // Renews the sequence's part of the counter.
  void Account(Sequence* s);

  ModelRunner* const runner_;
  const Clock* const clock_;
  const int page_tokens_;
  const uint64_t page_bytes_;
  const std::unique_ptr<kv::KvStore> kv_;
  RestorePolicy restore_policy_;
  bool device_busy_ = false;
  int32_t reserved_ = 0;
  uint64_t host_hit_tokens_ = 0, host_failures_ = 0, host_restored_pages_ = 0, host_saved_pages_ = 0;
  std::vector<kv::PageMove> moves_;    // scratch
  std::vector<int32_t> failed_pages_;  // of the last moves
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_SEQUENCE_PAGES_H_
