// The sample op on the device: one block per logits row, no sort of the vocabulary. The rules and their order are those
// of kernels/sampling.h; the drawn token is SampleReference's for the same logits but where a threshold or the draw
// falls within the rounding of the masses (sampler_numbers.h) or of adjusted logits to f32, or where different logits
// share a probability in double (the reference then goes by id, this by the logit). The tests' thousands have no case.
//
// Selection is by counting: histograms of counts and masses over the tokens in the order of the draw, ten bits at a
// time (sampler_select.h), in fixed-point integers, so that no order of the threads changes a bit.
//
// Thread-safety: as runtime.h.  Pointers: device memory.
// Errors: as runtime.h; CHECK on vocab >= 2^19 and num_top > kMaxTop. Ids outside the vocabulary are the caller's to
// refuse.
// Cost: passes over the row in L2: one for the argmax, three for a draw; one more for each of adjustments, top-k and
// top-p, two for min-p, four for typical-p; three for a logprob and one for a top list. More where more than 256 tokens
// share what ten bits tell.
// Source: ours; sorting-free selection as FlashInfer's sampling.
#ifndef DUNLIN_KERNELS_CUDA_SAMPLER_H_
#define DUNLIN_KERNELS_CUDA_SAMPLER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/runtime.h"
#include "kernels/sampling.h"

namespace dunlin::kernels::cuda {

inline constexpr int kMaxTop = 20;  // SampleParams::num_top at most

// One row's parameters as the kernel reads them; lists are ranges of one array of entries.
struct DeviceSampleParams {
  int32_t forced_token;
  float temperature;
  int32_t top_k;
  float top_p, min_p, typical_p;
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t num_top;
  uint64_t seed;
  uint64_t position;
  int32_t penalties_begin, penalties_end;  // into DeviceSampleLists::counts
  int32_t biases_begin, biases_end;        // into biases
  int32_t allowed_begin, allowed_end;      // into ids; empty = all
  int32_t banned_begin, banned_end;        // into ids
};
struct DeviceSampleLists {
  const TokenCount* counts = nullptr;
  const TokenBias* biases = nullptr;
  const int32_t* ids = nullptr;
};
struct DeviceSampleResult {
  int32_t token;
  float logprob;
  int32_t rank;
  int32_t top_ids[kMaxTop];
  float top_logprobs[kMaxTop];
};

// Host side: how many entries the rows' lists have, and their copy into the caller's (pinned) arrays.
struct SampleListSizes {
  size_t counts = 0, biases = 0, ids = 0;
};
SampleListSizes CountSampleLists(std::span<const SampleParams> params);
void FlattenSampleParams(std::span<const SampleParams> params, DeviceSampleParams* rows, TokenCount* counts,
                         TokenBias* biases, int32_t* ids);
void ToSampleResult(const DeviceSampleResult& from, int num_top, SampleResult* to);

// scratch: f32 [max_rows, vocab], the adjusted logits of rows that have penalties, biases or lists.
// num_rows: on the device, how many of max_rows count; nullptr: all.
void SampleRows(Device* device, const float* logits, int vocab, int max_rows, const int32_t* num_rows,
                const DeviceSampleParams* params, const DeviceSampleLists& lists, float* scratch,
                DeviceSampleResult* results);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_SAMPLER_H_
