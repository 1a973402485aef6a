// Replays a request trace through one prefix cache and counts the blocks that were still there: through the real
// KvStore under both of its eviction policies, and through simulations to compare with. A block is a page of its own
// (its tokens derive from its id), a request matches, computes and publishes all of its blocks and is closed before the
// next comes. Hit ratio: blocks of the matched prefixes over blocks asked for. Thread-safety: pure functions.  Errors:
// a trace that cannot be read is a status naming the file and the line. Cost: the real store replays about a million
// blocks a second. Source: ours; ARC is Megiddo and Modha, FAST'03; the bound evicts what is asked for last, as
// Belady's, a deeper block first, and lets no block in that is asked for later than all that are there.
#ifndef DUNLIN_TESTS_BENCH_TRACE_REPLAY_H_
#define DUNLIN_TESTS_BENCH_TRACE_REPLAY_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kvstore/kv_types.h"

namespace dunlin::bench {

struct Trace {
  std::vector<std::vector<int32_t>> requests;     // blocks, the prompt's beginning first, numbered from 0
  std::unordered_map<uint64_t, int32_t> numbers;  // id in the file -> block
  std::vector<int32_t> parents;                   // block -> the one before it, -1 for a prompt's first
  int64_t total = 0;                              // blocks asked for

  int32_t num_blocks() const { return static_cast<int32_t>(parents.size()); }
};

// Adds a JSONL file of requests with `hash_ids` each (".gz": compressed) to the trace. Ids mean the same in all files.
absl::Status ReadTrace(const std::string& path, Trace* trace);
absl::Status ParseTrace(absl::string_view text, Trace* trace);

// Each returns the blocks found, for a cache of `capacity` blocks.
int64_t ReplayStore(const Trace& trace, int32_t capacity, kv::EvictionPolicy policy);
int64_t SimulateLru(const Trace& trace, int32_t capacity);  // what the store's kLru must equal
int64_t SimulateArc(const Trace& trace, int32_t capacity);
int64_t SimulateClairvoyant(const Trace& trace, int32_t capacity);

struct TraceRow {
  int32_t capacity = 0;
  double ours = 0, lru = 0, arc = 0, clairvoyant = 0;  // hit ratios
};
TraceRow ReplayTrace(const Trace& trace, int32_t capacity);
void PrintTraceRows(const std::vector<TraceRow>& rows, std::ostream& out);  // TSV

}  // namespace dunlin::bench

#endif  // DUNLIN_TESTS_BENCH_TRACE_REPLAY_H_
