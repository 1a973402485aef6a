// The step's batch as the kernels see it: arrays on the device at fixed addresses, so that a recorded graph stays valid
// from step to step. Grids are sized by `max_*` (the bucket); what a kernel does is bounded by `counts`, which it reads
// from the device; rows beyond are padding: their inputs are anything and their outputs nobody's.
// Thread-safety: plain values; the arrays are the owner's (device_batch.h).  Errors: none.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_BATCH_H_
#define DUNLIN_KERNELS_CUDA_BATCH_H_

#include <cstdint>

#include "kernels/paged_kv.h"

namespace dunlin::kernels::cuda {

struct BatchCounts {
  int32_t num_rows;
  int32_t num_sequences;
  int32_t num_outputs;
  int32_t reserved;
};

struct DeviceSequence {
  int32_t first_row;
  int32_t num_rows;
  int32_t context_tokens;  // in its pages before this step
  int32_t first_page;      // its page table begins at pages[first_page]
};

struct DeviceBatch {
  // The bucket: what grids are sized for.
  int32_t max_rows = 0;
  int32_t max_sequences = 0;
  int32_t max_outputs = 0;
  const BatchCounts* counts = nullptr;        // [1]
  int32_t* token_ids = nullptr;               // [max_rows]
  const int32_t* from_previous = nullptr;     // [max_rows] tokens.h; -1: token_ids has the token
  const int32_t* positions = nullptr;         // [max_rows]
  const int32_t* row_sequence = nullptr;      // [max_rows] index into sequences
  const DeviceSequence* sequences = nullptr;  // [max_sequences]
  const int32_t* pages = nullptr;             // all page tables
  const int32_t* output_rows = nullptr;       // [max_outputs]
};

// Where the pages are; layout.order is kDevice.
struct DevicePages {
  uint8_t* base = nullptr;
  PageLayout layout;
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_BATCH_H_
