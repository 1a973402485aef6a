// Builds the flat arrays of one step, sequence by sequence. Thread-safety: engine thread only.  Owns: the batch.
// Borrows: the page tables, which must outlive the step. Cost: copies tokens; allocates in the constructor alone.
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
  StepBatchBuilder(int max_rows, int max_sequences, int page_tokens);

  void Clear() { batch_.Clear(); }
  // The next rows: `tokens` of a sequence that has `context_tokens` in its pages. `pages` may be longer than needed.
  void AddSequence(std::span<const int32_t> tokens, int32_t context_tokens, std::span<const int32_t> pages,
                   bool prefill);
  // One row whose token is the one that output `previous_output` of the step before draws.
  void AddUnknownToken(int32_t previous_output, int32_t context_tokens, std::span<const int32_t> pages);
  // Further rows of the sequence added last: tokens that are only guessed, after its own.
  void AddDraft(std::span<const int32_t> tokens, std::span<const int32_t> pages);
  // Asks for the output of a row of the sequence added last; rows ascend.
  void AddOutput(int32_t row_of_sequence, const kernels::SampleParams& params);
  // A batch of one row and one output per sequence: sequence i goes one token further.
  void Advance(size_t i, int32_t token, std::span<const int32_t> pages, const kernels::SampleParams& params);
  // Valid until Clear.
  const StepBatch& Finish();

 private:
  const int page_tokens_;
  StepBatch batch_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_STEP_BATCH_H_
