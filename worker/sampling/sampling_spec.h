// How a sequence's tokens are drawn, as the client asked, with every default filled in.
// Thread-safety: plain data.
#ifndef DUNLIN_WORKER_SAMPLING_SAMPLING_SPEC_H_
#define DUNLIN_WORKER_SAMPLING_SAMPLING_SPEC_H_

#include <cstdint>
#include <vector>

#include "kernels/sampling.h"

namespace dunlin::worker {

struct SamplingSpec {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;
  float min_p = 0.0f;
  float typical_p = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  int32_t penalty_last_n = -1;  // -1 = the whole sequence, 0 = off
  uint64_t seed = 0;
  std::vector<kernels::TokenBias> logit_bias;  // unique ids
  std::vector<int32_t> allowed_tokens;
  std::vector<int32_t> banned_tokens;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SAMPLING_SAMPLING_SPEC_H_
