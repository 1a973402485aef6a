// The sampling state of one sequence: which tokens count for penalties, which are banned now. Turns a SamplingSpec into
// the SampleParams of each step.
// Thread-safety: engine thread only.  Owns: everything the spans of its SampleParams point to; they are valid until the
// next Append. Cost: O(1) per token; allocates in the constructor alone.
#ifndef DUNLIN_WORKER_SAMPLING_SEQUENCE_SAMPLER_H_
#define DUNLIN_WORKER_SAMPLING_SEQUENCE_SAMPLER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/sampling.h"
#include "worker/sampling/sampling_spec.h"

namespace dunlin::worker {

// How often each token occurs in the last `window` tokens of prompt and output.
class PenaltyWindow {
 public:
  // window: -1 = everything. max_tokens: of prompt and output together.
  PenaltyWindow(int32_t window, std::span<const int32_t> prompt, size_t max_tokens);
  void Append(int32_t token) { Append(token, true); }
  std::span<const kernels::TokenCount> counts() const { return counts_; }

 private:
  struct Occurrences {
    int32_t in_prompt = 0, in_output = 0;
    size_t index = 0;  // of its entry in counts_
  };
  struct Entry {
    int32_t token;
    bool in_output;
  };

  void Append(int32_t token, bool in_output);
  void Change(int32_t token, bool in_output, int32_t by);

  const size_t window_;
  std::vector<Entry> ring_;  // the last window_ tokens; empty when the window is everything
  size_t ring_at_ = 0;
  absl::flat_hash_map<int32_t, Occurrences> occurrences_;
  std::vector<kernels::TokenCount> counts_;
};

class SequenceSampler {
 public:
  // ending_tokens: those that would end the sequence; banned for the first `min_tokens` draws. num_top: as
  // SampleParams.
  SequenceSampler(SamplingSpec spec, std::span<const int32_t> prompt, int32_t max_tokens, int32_t min_tokens,
                  std::span<const int32_t> ending_tokens, int32_t num_top);

  // A token was drawn.
  void Append(int32_t token);
  // Parameters of the next draw; position: the one the drawn token will take. ahead: of the draw after so many more,
  // whose tokens are not known: for a sampler without penalties.
  kernels::SampleParams Next(int32_t position, int32_t ahead = 0) const;
  // Parameters depend on the tokens drawn before.
  bool penalised() const { return penalised_; }
  // True while the next draw must not end the sequence.
  bool below_min_tokens() const { return num_drawn_ < min_tokens_; }

 private:
  SamplingSpec spec_;
  const int32_t min_tokens_;
  const int32_t num_top_;
  int32_t num_drawn_ = 0;
  bool penalised_;
  PenaltyWindow window_;
  std::vector<int32_t> banned_before_min_;
};

// Judges a known token, for prompt logprobs.
kernels::SampleParams JudgeToken(int32_t token, int32_t position, int32_t num_top);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SAMPLING_SEQUENCE_SAMPLER_H_
