// Drawn tokens that stay on the device, so that a step can be submitted before the host knows what the one before it
// drew. Thread-safety, errors: as runtime.h.  Pointers: device memory.  Cost: latency.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_TOKENS_H_
#define DUNLIN_KERNELS_CUDA_TOKENS_H_

#include <cstdint>

#include "kernels/cuda/batch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampler.h"

namespace dunlin::kernels::cuda {

// drawn[i] = results[i].token for i < count.
void KeepDrawnTokens(Device* device, const DeviceSampleResult* results, int count, int32_t* drawn);

// token_ids[r] = drawn[from_previous[r]] for the batch's rows that name one (>= 0).
void ResolveTokens(Device* device, const DeviceBatch& batch, const int32_t* drawn);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_TOKENS_H_
