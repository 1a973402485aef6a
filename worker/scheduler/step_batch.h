// Builds the flat arrays of one step, sequence by sequence. Thread-safety: engine thread only.  Owns: the batch.
// Cost: copies tokens and page ids; allocates only while the arrays grow to their largest size.
#ifndef DUNLIN_WORKER_SCHEDULER_STEP_BATCH_H_
#define DUNLIN_WORKER_SCHEDULER_STEP_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling.h"
#include "worker/model_runner.h"

namespace dunlin::worker {

class StepBatchBuilder {
 public:
  // max_page_ids: of all sequences of one step together.
  StepBatchBuilder(int max_rows, int max_sequences, size_t max_page_ids, int page_tokens);

  void Clear();
  // The next rows: `tokens` of a sequence that has `context_tokens` in its pages. `pages` may be longer than needed.
  void AddSequence(std::span<const int32_t> tokens, int32_t context_tokens, std::span<const int32_t> pages,
                   bool prefill);
  // Asks for the output of a row of the sequence added last; rows ascend.
  void AddOutput(int32_t row_of_sequence, const kernels::SampleParams& params);
  // Valid until Clear.
  const StepBatch& Finish();

 private:
  const int page_tokens_;
  StepBatch batch_;
  std::vector<size_t> first_page_;  // of each sequence, in batch_.page_ids
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_STEP_BATCH_H_
