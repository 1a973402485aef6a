// Façade of the KV bookkeeping: which page holds which tokens. Ids only, no bytes: the runner owns the memory and
// carries out the PageMoves that this class asks for, in order, before the next step.
// Thread-safety: engine thread only.  Owns: page states, prefix index, every page table, the host tier's slots.
// Errors: kFull / kWaitForPins are expected outcomes, returned as values; a broken invariant CHECK-fails.
// Transactions: a call that does not succeed leaves everything bit-identical (DebugSnapshot). Cost: O(pages touched),
// no allocation after Create except a sequence's own table when a slot is first opened and the root of a new namespace.
// Source: ours (FORMAT.md for the page format; the reasoning is at the top of kv_store_impl.h, prefix_index.h and
// eviction_queue.h).
#ifndef DUNLIN_KVSTORE_KV_STORE_H_
#define DUNLIN_KVSTORE_KV_STORE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kvstore/kv_types.h"

namespace dunlin::kv {

class KvStore {
 public:
  static std::unique_ptr<KvStore> Create(const KvOptions& options);
  virtual ~KvStore() = default;

  // ---- Sequences ----
  // Opens a sequence whose tokens so far are `tokens` (>= 1) in `ns`, sharing the pages of the longest cached prefix of
  // tokens[0, size-1): the last token is always computed. Never fails: what there is no page for (the copy of a partial
  // page, restored pages) is simply not matched.
  virtual MatchResult Match(absl::string_view ns, std::span<const int32_t> tokens, const MatchOptions& options) = 0;
  // How much Match would find now. Changes nothing.
  virtual void Peek(absl::string_view ns, std::span<const int32_t> tokens, PrefixHint* hint) const = 0;
  // Makes room for tokens [0, num_tokens) of which [computed, num_tokens) will be written by the coming step: grows the
  // table and makes the pages written private (a shared or indexed one is copied). All or nothing. The range is the
  // sequence's write set until EndStep or FailStep.
  // Calls within one step add up to one range. Where a shared or indexed page is written again, shared or indexed pages
  // that follow the range are given up.
  virtual ReserveOutcome Reserve(SequenceId seq, int32_t computed, int32_t num_tokens) = 0;
  // Page ids of the sequence, in token order; valid until the next call that is not const.
  virtual std::span<const int32_t> PageTable(SequenceId seq) const = 0;
  // tokens [0, tokens.size()) of the sequence have been computed: full pages are indexed. A page that the index has
  // already (somebody else computed it too) is replaced in the table by the indexed one and its duplicate freed.
  virtual void Publish(SequenceId seq, std::span<const int32_t> tokens) = 0;
  // A second sequence with the same pages; both copy before they write into a shared page. Not while `seq` has a write
  // set.
  virtual SequenceId Fork(SequenceId seq) = 0;
  // Gives up the pages that tokens [0, num_tokens) do not need (rejected drafts).
  virtual void Truncate(SequenceId seq, int32_t num_tokens) = 0;
  // Closes the sequence: pages that nobody else holds become cached (if indexed) or blank, the last first.
  virtual void Release(SequenceId seq) = 0;

  // ---- One step: computing the same page once (in-batch de-duplication) ----
  // The coming step computes tokens [computed, tokens.size()) of the sequence. True: go on, and the full pages among
  // them are claimed until EndStep. False: the first of these pages is claimed by another sequence in this step; wait
  // for it (and Adopt it next step) instead of computing it. Claims nothing then. computed: a multiple of page_tokens,
  // or the claim is granted without looking.
  virtual bool Claim(SequenceId seq, int32_t computed, std::span<const int32_t> tokens) = 0;
  // Shares pages of the known tokens that were published since by others, from `computed` (a multiple of page_tokens
  // with no page beyond it reserved, else nothing is done) on. Returns the tokens computed now; at most
  // tokens.size()-1.
  virtual int32_t Adopt(SequenceId seq, int32_t computed, std::span<const int32_t> tokens) = 0;
  virtual void EndStep() = 0;  // after the step's Publish calls: claims and write sets end
  // The step failed: the pages of all write sets hold anything; they are never published and go to quarantine instead
  // of blank or cached. To be called while the sequences of the step are open. Ends the step.
  virtual void FailStep() = 0;
  // A step that has ended by EndStep failed after all: tokens [from, to) of the sequence hold anything. Their pages
  // leave the index, with what follows them, and go to quarantine.
  virtual void Distrust(SequenceId seq, int32_t from, int32_t to) = 0;
  virtual int32_t Absolve() = 0;  // quarantined pages become blank (the device is known to be quiet); how many

  // ---- Transfers ----
  // Appends what the runner has to do since the last call, in order.
  virtual void TakeMoves(std::vector<PageMove>* moves) = 0;
  // The kRestore into `page` failed (checksum, I/O): forgets it and all that follows it, for the index and for `seq`.
  // Returns the sequence's matched tokens now. Sequences matched in the same step may share the page: to be called for
  // each of them (a sequence that does not have the page stays as it is). Until EndStep nothing is copied from a page
  // that is being restored.
  virtual int32_t FailRestore(SequenceId seq, PageId page) = 0;
  // An extra reference for a transfer under way on another stream, to a page that is held or cached. A pin keeps the
  // page, not its prefix: when that is evicted meanwhile, the page leaves the index.
  virtual void Pin(PageId page) = 0;
  virtual void Unpin(PageId page) = 0;

  // ---- The cache ----
  virtual int32_t Flush() = 0;  // drops every cached, unreferenced page and every host record; how many pages
  virtual void TakeEvents(CacheEvents* events) = 0;  // appends; since the last call, in an order that can be replayed:
                                                     // removed first, then added
  virtual void ListHashes(std::vector<uint64_t>* hashes) const = 0;  // appends those present; with record_events only
  virtual KvStats Stats() const = 0;
  virtual int32_t AvailablePages() const = 0;  // blank plus evictable

  // ---- Proof ---- (invariants.h names the checks; this runs them all)
  virtual std::string CheckInvariants() const = 0;  // "" or the first violated invariant by name with its values
  virtual std::string CheckIdle() const = 0;        // no open sequence, no pin, nothing held, no claim
  virtual std::string DebugSnapshot() const = 0;    // all bookkeeping as bytes; equal = identical
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_KV_STORE_H_
