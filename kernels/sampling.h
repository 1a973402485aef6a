// What the sample op is asked and what it answers, per row of logits. Plain data, shared by every backend.
// Order of the rules (the field's usual one): logprobs and rank are read from the raw distribution first; then bias,
// allowed, banned; repetition, frequency and presence penalties; temperature 0 = argmax (lowest id on ties); else
// temperature, top-k, typical-p, top-p, min-p, and one draw with the bits of (seed, position). The draw walks the kept
// tokens from the most to the least likely (lower id first on ties) until their cumulated, renormalised probability
// exceeds the uniform. Thread-safety: plain data.  Source: penalties as OpenAI and CTRL (arXiv 1909.05858) define them;
// min-p arXiv 2407.01082; typical-p arXiv 2202.00666.
#ifndef DUNLIN_KERNELS_SAMPLING_H_
#define DUNLIN_KERNELS_SAMPLING_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace dunlin::kernels {

struct TokenCount {
  int32_t id;
  int32_t count;   // >= 1: occurrences in the penalty window: among generated tokens if in_output, else in the prompt
  bool in_output;  // frequency and presence penalties look at these only; the repetition penalty at all
};
struct TokenBias {
  int32_t id;
  float bias;
};

struct SampleParams {
  int32_t forced_token = -1;  // >= 0: judge this token (prompt logprobs) instead of drawing one
  float temperature = 1.0f;   // 0 = greedy
  int32_t top_k = 0;          // 0 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float typical_p = 1.0f;  // 0 or 1 = off
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  uint64_t seed = 0;
  uint64_t position = 0;                       // position that the drawn token will take
  std::span<const TokenCount> penalty_tokens;  // unique ids
  std::span<const TokenBias> biases;           // unique ids
  std::span<const int32_t> allowed;            // empty = all
  std::span<const int32_t> banned;
  int32_t num_top = -1;  // -1 = no logprobs; 0 = the token's own; n = also the n most likely (<= 20)
};

struct SampleResult {
  int32_t token = -1;
  float logprob = 0.0f;             // natural log of the model's own distribution (raw logits); 0 when num_top < 0
  int32_t rank = 0;                 // 1 = most likely; 0 when num_top < 0
  std::vector<int32_t> top_ids;     // [num_top], most likely first; capacity kept between steps
  std::vector<float> top_logprobs;  // parallel to top_ids
};

// The sample op in plain code, in double: the definition that every backend's fast version is tested against.
// logits: [vocab]; result is overwritten. CHECK-fails when vocab < 1 or an id is outside the vocabulary. If every token
// is banned the most likely raw token wins. A broken model does not break the sampler: NaN counts as -infinity, and
// +infinity wins without a draw.
void SampleReference(const float* logits, int vocab, const SampleParams& params, SampleResult* result);

// Philox4x32-10, a counter-based generator (Salmon et al., SC'11).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64 uniform bits for one draw: the first two words of Philox(counter = position, key = seed), low word first; so
// batching, preemption and failover never change a draw.
uint64_t RandomBits(uint64_t seed, uint64_t position);
// The draw's uniform in [0, 1): the top 53 bits.
double RandomUniform(uint64_t seed, uint64_t position);

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_SAMPLING_H_
