#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/sampler.h"

namespace dunlin::kernels::cuda {

SampleListSizes CountSampleLists(std::span<const SampleParams> params) {
  SampleListSizes sizes;
  for (const SampleParams& p : params) {
    sizes.counts += p.penalty_tokens.size();
    sizes.biases += p.biases.size();
    sizes.ids += p.allowed.size() + p.banned.size();
  }
  return sizes;
}

namespace {

// Copies `from` behind the `*used` entries of `to`.
template <typename T>
void Append(std::span<const T> from, T* to, int32_t* used, int32_t* begin, int32_t* end) {
  *begin = *used;
  std::copy(from.begin(), from.end(), to + *used);
  *used += static_cast<int32_t>(from.size());
  *end = *used;
}

}  // namespace

void FlattenSampleParams(std::span<const SampleParams> params, DeviceSampleParams* rows, TokenCount* counts,
                         TokenBias* biases, int32_t* ids) {
  int32_t num_counts = 0, num_biases = 0, num_ids = 0;
  for (const SampleParams& p : params) {
    CHECK_LE(p.num_top, kMaxTop);
    DeviceSampleParams& row = *rows++;
    row.forced_token = p.forced_token;
    row.temperature = p.temperature;
    row.top_k = p.top_k;
    row.top_p = p.top_p;
    row.min_p = p.min_p;
    row.typical_p = p.typical_p;
    row.repetition_penalty = p.repetition_penalty;
    row.frequency_penalty = p.frequency_penalty;
    row.presence_penalty = p.presence_penalty;
    row.num_top = p.num_top;
    row.seed = p.seed;
    row.position = p.position;
    Append(p.penalty_tokens, counts, &num_counts, &row.penalties_begin, &row.penalties_end);
    Append(p.biases, biases, &num_biases, &row.biases_begin, &row.biases_end);
    Append(p.allowed, ids, &num_ids, &row.allowed_begin, &row.allowed_end);
    Append(p.banned, ids, &num_ids, &row.banned_begin, &row.banned_end);
  }
}

void ToSampleResult(const DeviceSampleResult& from, int num_top, SampleResult* to) {
  to->token = from.token;
  to->logprob = from.logprob;
  to->rank = from.rank;
  to->top_ids.clear();
  to->top_logprobs.clear();
  for (int i = 0; i < num_top && from.top_ids[i] >= 0; ++i) {
    to->top_ids.push_back(from.top_ids[i]);
    to->top_logprobs.push_back(from.top_logprobs[i]);
  }
}

}  // namespace dunlin::kernels::cuda
