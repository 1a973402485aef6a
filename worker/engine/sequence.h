// One sequence as the engine keeps it, from arrival to end. Thread-safety: engine thread only.
// Owns: its tokens, its sampling state, its open sequence in the KV store (closed by EngineCore).
#ifndef DUNLIN_WORKER_ENGINE_SEQUENCE_H_
#define DUNLIN_WORKER_ENGINE_SEQUENCE_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "kvstore/kv_types.h"
#include "worker/engine/engine.h"
#include "worker/engine/latency_histogram.h"
#include "worker/engine/prompt_lookup.h"
#include "worker/sampling/sequence_sampler.h"
#include "worker/scheduler/row_planner.h"
#include "worker/scheduler/tenant_counters.h"

namespace dunlin::worker {

struct Sequence {
  // What every step looks at comes first and lies together: with hundreds of sequences it is memory that costs.
  TokenStream* stream = nullptr;  // request.stream
  absl::Time due;                 // when its deadline or max_time passes
  std::vector<int32_t> tokens;    // the prompt, then what was drawn
  int32_t prompt_tokens = 0;
  int32_t limit_tokens = 0;  // prompt and output together end here
  bool generates = true;     // max_tokens > 0
  bool judges_prompt = false;
  bool paused = false;
  FinishCause at_limit = FinishCause::kLength;
  int32_t preemptions = 0;
  // Pages (SequencePages). A waiting sequence has none.
  std::optional<kv::SequenceId> kv;  // while it runs
  int32_t num_pages = 0;             // in its table
  int32_t promised_pages = 0;        // it gets so many for sure
  int32_t outstanding_pages = 0;     // of them, not yet taken
  int32_t pages_peak = 0;
  // Of tokens, in the pages, those of unknown tokens too; as of when the steps in flight have run.
  int32_t num_computed = 0;
  int32_t num_once_computed = 0;  // the furthest num_computed has been: up to there it is recomputation
  int32_t num_judged = 0;         // prompt tokens handed out with their logprobs
  uint64_t admitted_step = 0;     // when it joined last
  uint64_t last_advanced = 0;     // step that last gave it rows, or in which it could not have any
  // Steps in flight. A result that comes back drops it from both counts.
  int32_t steps_in_flight = 0;  // that have rows of it
  int32_t unknown_tokens = 0;   // that they draw for it; they follow `tokens`
  int32_t unknown_output = -1;  // of the step submitted last: the one that draws the last of them

  // Speculation. The draft is that of the step under way; between steps there is none.
  int32_t max_draft = 0;               // tokens; 0 = nothing is looked up
  std::vector<int32_t> draft;          // follows tokens
  std::optional<PromptLookup> lookup;  // of tokens; from the first admission on
  int32_t draft_tokens = 0, accepted_draft_tokens = 0;

  std::optional<SequenceSampler> sampler;  // from the first admission on; a preemption does not change it
  NewSequence request;                     // its prompt is in tokens
  TenantId tenant = TenantId{0};
  uint64_t number = 0;  // of its arrival
  int32_t cached_prompt_tokens = 0;
  kv::PrefixHint hint;         // what a waiting one would find
  uint64_t next_try_step = 0;  // not to be opened on the strength of its hint before
  int32_t times_passed = 0;    // in the queue, by later ones; kept when it could not join after all
  absl::Time arrival, admitted, first_token, last_token, paused_since;
  LatencyHistogram itl;
  double bytes_read = 0;

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return num_tokens() - prompt_tokens; }
  // With those that are being drawn.
  int32_t num_planned() const { return num_tokens() + unknown_tokens; }
  bool was_admitted() const { return sampler.has_value(); }
  // Tokens whose rows have to be computed by now: all, but without generation only those that judge a later one.
  int32_t target_tokens() const {
    if (generates) return num_planned();
    return judges_prompt ? prompt_tokens - 1 : 0;
  }
  int32_t remaining_tokens() const { return target_tokens() - num_computed; }
  // Its last rows are in flight: whatever they bring, it ends.
  bool finishing() const {
    return steps_in_flight > 0 && (generates ? num_planned() == limit_tokens : remaining_tokens() <= 0);
  }
  RowView row_view() const {
    RowView v;
    v.remaining = std::max(remaining_tokens(), 1);
    v.computed = num_computed;
    v.admitted_step = admitted_step;
    v.last_advanced = last_advanced;
    v.decoding = decoding();
    v.paused = paused || finishing();
    return v;
  }
  bool decoding() const { return num_planned() > prompt_tokens && remaining_tokens() == 1; }
  // Shared pages may stand in for rows: not while the rows have prompt tokens to judge.
  bool may_share() const { return request.cache_read && (!judges_prompt || num_judged >= prompt_tokens - 1); }
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_SEQUENCE_H_
