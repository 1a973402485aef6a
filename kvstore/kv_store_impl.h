// The KvStore: pool, index, host tier and tables, and what ties them together. Contract: kv_store.h.
// What always holds, beyond each part's own rules (invariants.h checks it):
// - Leaf first. A page's node has a parent that is on the device too, or is a child of a root; a host record's
// ancestors
//   are on the device or the host. Tables give up their last page first and every hit is a hit of the whole path, so a
//   parent enters the eviction queue after its children and with at least their weight. The one page that can outlast
//   its ancestors' references is a pinned one: its ancestors are queued anew at Unpin, and when one of them is evicted
//   before, the pinned page leaves the index.
// - In a table, the pages that are indexed or in another table come first, and two tables that share a page agree on
// all
//   pages before it. So a duplicate is replaced in every table that has it.
// Thread-safety: engine thread only.  Source: ours.
#ifndef DUNLIN_KVSTORE_KV_STORE_IMPL_H_
#define DUNLIN_KVSTORE_KV_STORE_IMPL_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kvstore/frequency_sketch.h"
#include "kvstore/host_tier.h"
#include "kvstore/invariants.h"
#include "kvstore/kv_store.h"
#include "kvstore/open_sequence.h"
#include "kvstore/page_pool.h"
#include "kvstore/prefix_index.h"
#include "kvstore/step_claims.h"

namespace dunlin::kv {

static_assert(PagePool::kBytesPerPage + PrefixIndex::kBytesPerNode + 16 * sizeof(int32_t) +
                      FrequencySketch::kBytesPerPage <=
                  128,
              "bookkeeping per page of 16 tokens: its state, its node with the tokens and hash table entries");

class PagedKvStore final : public KvStore, private EvictionListener {
 public:
  explicit PagedKvStore(const KvOptions& options);

  MatchResult Match(absl::string_view ns, std::span<const int32_t> tokens, const MatchOptions& options) override;
  void Peek(absl::string_view ns, std::span<const int32_t> tokens, PrefixHint* hint) const override;
  ReserveOutcome Reserve(SequenceId seq, int32_t computed, int32_t num_tokens) override;
  std::span<const int32_t> PageTable(SequenceId seq) const override { return At(seq).table.ids(); }
  void Publish(SequenceId seq, std::span<const int32_t> tokens) override;
  SequenceId Fork(SequenceId seq) override;
  void Truncate(SequenceId seq, int32_t num_tokens) override;
  void Release(SequenceId seq) override;

  bool Claim(SequenceId seq, int32_t computed, std::span<const int32_t> tokens) override;
  int32_t Adopt(SequenceId seq, int32_t computed, std::span<const int32_t> tokens) override;
  void EndStep() override;
  void FailStep() override;
  void Distrust(SequenceId seq, int32_t from, int32_t to) override;
  int32_t Absolve() override { return pool_.Absolve(); }

  void TakeMoves(std::vector<PageMove>* moves) override;
  int32_t FailRestore(SequenceId seq, PageId page) override;
  void Pin(PageId page) override;
  void Unpin(PageId page) override;

  int32_t Flush() override;
  void TakeEvents(CacheEvents* events) override { index_.TakeEvents(events); }
  void ListHashes(std::vector<uint64_t>* hashes) const override { index_.ListHashes(hashes); }
  KvStats Stats() const override;
  int32_t AvailablePages() const override { return pool_.available(); }

  std::string CheckInvariants() const override { return CheckAll(view()); }
  std::string CheckIdle() const override { return kv::CheckIdle(view()); }
  std::string DebugSnapshot() const override;
  StoreView view() const;

 private:
  friend struct TestPeer;

  // EvictionListener
  void OnEvict(PageId page) override;

  OpenSequence& At(SequenceId seq) { return const_cast<OpenSequence&>(std::as_const(*this).At(seq)); }
  const OpenSequence& At(SequenceId seq) const;
  SequenceId OpenSlot();
  int32_t PagesFor(int32_t tokens) const { return tokens / page_tokens_ + (tokens % page_tokens_ != 0 ? 1 : 0); }
  // Whole pages that a sequence of `num_tokens` may share: never its last token.
  int32_t SharablePages(size_t num_tokens) const;
  std::span<const int32_t> TokensOfPage(std::span<const int32_t> tokens, int32_t page) const {
    return tokens.subspan(static_cast<size_t>(page * page_tokens_), static_cast<size_t>(page_tokens_));
  }
  // What the page after the first `num_pages` is a child of; -1 when that is not in the index.
  int32_t ParentOfPage(const OpenSequence& s, int32_t num_pages) const;
  int Weight(int32_t node) const;

  // Parts of Match; they append to the table.
  void ShareResident(OpenSequence* s, std::span<const int32_t> tokens);
  int32_t Restore(OpenSequence* s, std::span<const int32_t> tokens);
  int32_t CopyPartial(OpenSequence* s, std::span<const int32_t> tokens);
  // The resident child of `parent` that begins with most of `rest`, at most `most` tokens of it; -1: none begins alike.
  int32_t BestPartial(int32_t parent, std::span<const int32_t> rest, int32_t most, int32_t* common) const;
  bool CopySource(int32_t node) const;
  PageRef HoldHit(int32_t node);

  // Parts of Reserve.
  bool MayWrite(PageId page) const { return pool_.ref_count(page) == 1 && pool_.node(page) < 0; }
  void ReplaceUnwritable(OpenSequence* s, int32_t first, int32_t last, bool copy_first, size_t* num_fresh);
  void ExtendWriteSet(OpenSequence* s, int32_t first, int32_t last);

  void Attach(int32_t node, PageId page);
  void ReplaceDuplicate(OpenSequence* s, int32_t index, int32_t node);
  // Takes the node and everything below it out of the index, from the leaves on.
  void Forget(int32_t node);
  void RemoveLeaf(int32_t node);
  bool KeepOnHost(int32_t node, PageId page);
  int32_t NewNode(int32_t parent, std::span<const int32_t> page_tokens);
  void DropRecord(int32_t slot, bool evicted);

  const KvOptions options_;
  const int32_t page_tokens_;
  PagePool pool_;
  PrefixIndex index_;
  FrequencySketch frequency_;
  HostTier host_;
  StepClaims claims_;
  std::vector<OpenSequence> sequences_;  // after the pool: their references go first
  std::vector<int32_t> free_sequences_;
  std::vector<PageMove> moves_;
  uint64_t step_ = 1;
  uint64_t dedup_pages_ = 0, copied_pages_ = 0, host_saves_ = 0, host_restores_ = 0;

  // Scratch, kept from call to call.
  std::vector<PageRef> fresh_;
  std::vector<int32_t> path_;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_KV_STORE_IMPL_H_
