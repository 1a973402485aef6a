// What must hold between any two calls of a KvStore, as named functions: each returns "" or the violated invariant by
// name with the values that violate it. Callable in release builds; O(pages + tables), they allocate.
// The two invariants that have no function here: a call that fails changes nothing (compare DebugSnapshot before and
// after, SnapshotDifference tells where they part), and a stale page handle is found (PageRef CHECK-fails).
// Thread-safety: engine thread only.  Source: ours.
#ifndef DUNLIN_KVSTORE_INVARIANTS_H_
#define DUNLIN_KVSTORE_INVARIANTS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kvstore/host_tier.h"
#include "kvstore/open_sequence.h"
#include "kvstore/page_pool.h"
#include "kvstore/prefix_index.h"
#include "kvstore/step_claims.h"

namespace dunlin::kv {

// The parts of a store, borrowed.
struct StoreView {
  const PagePool& pool;
  const PrefixIndex& index;
  const HostTier& host;
  const StepClaims& claims;
  std::span<const OpenSequence> sequences;
  std::span<const int32_t> free_sequences;
  uint64_t step;
};

// blank + held + cached + quarantine == total, by walking every structure; sequence slots are open or free.
std::string CheckConservation(const StoreView& v);
// A page has as many references as tables and pins name it; no table names a page twice; a closed sequence names none.
std::string CheckReferences(const StoreView& v);
// A page of a write set is in one table alone and not in the index.
std::string CheckWriteSets(const StoreView& v);
// Pages <-> nodes <-> host records; exactly the indexed pages without references are cached; the indexed pages of a
// table come first and are one path from the root of its namespace, so that they hold its tokens.
std::string CheckIndexBijection(const StoreView& v);
// A parent is never given up before its child, on the device and on the host.
std::string CheckEvictionOrder(const StoreView& v);
// No page is reached from two namespaces.
std::string CheckNamespaces(const StoreView& v);
// No open sequence, reference, pin, write set or claim.
std::string CheckIdle(const StoreView& v);
// The hashes present after replaying all events from an empty cache are those of the index. hashes: any order.
std::string CheckEvents(std::vector<uint64_t> replayed, std::vector<uint64_t> present);

// All that take a view and hold at any time, that is all but CheckIdle; the first that is violated.
std::string CheckAll(const StoreView& v);

// "" or where two snapshots part.
std::string SnapshotDifference(absl::string_view before, absl::string_view after);

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_INVARIANTS_H_
