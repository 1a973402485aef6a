// One sequence as the engine keeps it, from arrival to end. Thread-safety: engine thread only.
// Owns: its tokens, its sampling state, its open sequence in the KV store (closed by EngineCore).
#ifndef DUNLIN_WORKER_ENGINE_SEQUENCE_H_
#define DUNLIN_WORKER_ENGINE_SEQUENCE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "kvstore/kv_store.h"
#include "worker/engine/engine.h"
#include "worker/engine/latency_histogram.h"
#include "worker/sampling/sequence_sampler.h"

namespace dunlin::worker {

struct Sequence {
  NewSequence request;
  int32_t prompt_tokens = 0;
  int32_t limit_tokens = 0;  // prompt and output together end here
  FinishCause at_limit = FinishCause::kLength;
  int32_t worst_case_pages = 0;
  int32_t times_passed = 0;  // in the queue, by later ones

  // From admission on.
  std::optional<kv::SequenceId> kv;
  std::optional<SequenceSampler> sampler;
  std::vector<int32_t> tokens;  // prompt, then what was drawn
  int32_t num_computed = 0;     // of tokens, in the pages
  int32_t cached_prompt_tokens = 0;
  int32_t pages_peak = 0;
  bool paused = false;
  absl::Time paused_since;

  absl::Time arrival, admitted, first_token, last_token;
  absl::Time last_look;  // when it was last seen not cancelled
  LatencyHistogram itl;
  double bytes_read = 0;

  int32_t num_generated() const { return tokens.empty() ? 0 : static_cast<int32_t>(tokens.size()) - prompt_tokens; }
  bool judges_prompt() const { return request.num_prompt_logprobs >= 0; }
  // Tokens whose rows have to be computed by now: all, but without generation only those that judge a later one.
  int32_t target_tokens() const {
    if (request.max_tokens > 0) return static_cast<int32_t>(tokens.size());
    return judges_prompt() ? prompt_tokens - 1 : 0;
  }
  int32_t remaining_tokens() const { return target_tokens() - num_computed; }
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_SEQUENCE_H_
