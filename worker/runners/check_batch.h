// Whether a batch keeps to a runner's limits and to itself: what every runner asks before it touches memory.
// Thread-safety: pure.  Errors: CHECK-fails: the engine built it.  Cost: one comparison per row and page: nothing
// beside the step, and a wrong page would corrupt another sequence.
#ifndef DUNLIN_WORKER_RUNNERS_CHECK_BATCH_H_
#define DUNLIN_WORKER_RUNNERS_CHECK_BATCH_H_

#include "worker/model_runner.h"

namespace dunlin::worker {

void CheckBatch(const StepBatch& batch, const RunnerInfo& info);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_CHECK_BATCH_H_
