// Façade of the KV bookkeeping: which page holds which tokens. Ids only, no bytes: the runner owns the memory.
// Thread-safety: engine thread only.  Owns: page states, the free stack, every page table.
// Errors: kFull / kWait are expected outcomes, returned as values; a broken invariant CHECK-fails.
// Transactions: a Reserve that does not succeed leaves everything bit-identical. Cost: O(pages touched), no allocation
// after Create except a sequence's own table when it is opened. Source: ours (see FORMAT.md for the page format).
#ifndef DUNLIN_KVSTORE_KV_STORE_H_
#define DUNLIN_KVSTORE_KV_STORE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace dunlin::kv {

enum class PageId : int32_t {};
enum class SequenceId : int32_t {};  // index of an open sequence; reused after Release

enum class ReserveOutcome : uint8_t {
  kGranted,
  kWaitForPins,  // enough pages exist but some are pinned by a transfer: wait, do not preempt
  kFull,
};

struct KvOptions {
  int32_t num_pages = 0;
  int page_tokens = 16;
  int32_t max_sequences = 0;
  int32_t max_pages_per_sequence = 0;
};

struct KvStats {
  int32_t blank = 0, held = 0, cached = 0, quarantine = 0, total = 0;
  uint64_t evictions = 0;
};

class KvStore {
 public:
  static std::unique_ptr<KvStore> Create(const KvOptions& options);
  virtual ~KvStore() = default;

  // Opens a sequence whose prompt is `tokens` in `ns`, sharing the pages of the longest cached prefix.
  // *matched_tokens: tokens that need no computation (a whole number of pages; less than tokens.size()). `ns` separates
  // tenants: pages are never shared across namespaces. read = false matches nothing.
  virtual SequenceId Match(absl::string_view ns, std::span<const int32_t> tokens, bool read,
                           int32_t* matched_tokens) = 0;

  // Makes room for `num_tokens` tokens in all (cached ones included). All or nothing.
  virtual ReserveOutcome Reserve(SequenceId seq, int32_t num_tokens) = 0;

  // Page ids of the sequence, in token order; valid until the next call for it.
  virtual std::span<const int32_t> PageTable(SequenceId seq) const = 0;

  // The tokens [0, tokens.size()) of the sequence have been computed: full pages may be shared from now on.
  virtual void Publish(SequenceId seq, std::span<const int32_t> tokens) = 0;

  // Closes the sequence; its unshared, unpublished pages become blank, published ones cached.
  virtual void Release(SequenceId seq) = 0;

  // Drops every cached, unreferenced page; returns how many.
  virtual int32_t Flush() = 0;

  virtual KvStats Stats() const = 0;
  // Pages that Reserve could grant now (blank plus evictable).
  virtual int32_t AvailablePages() const = 0;
  // Walks every structure; "" or the first violated invariant with its values.
  virtual std::string CheckInvariants() const = 0;
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_KV_STORE_H_
