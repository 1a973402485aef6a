// From a request message to the sequences of its choices. Every field is checked again here: a worker trusts its
// gateway with nothing that could break it. Thread-safety: pure functions.  Cost: linear in the request. Errors:
// kInvalidArgument naming the field's path in the public API, its value and the limit; kOutOfRange for a prompt that
// the context cannot hold.
#ifndef DUNLIN_WORKER_SERVICE_NEW_SEQUENCES_H_
#define DUNLIN_WORKER_SERVICE_NEW_SEQUENCES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "worker/engine/engine.h"
#include "worker/model_runner.h"

namespace dunlin::worker {

// One sequence per choice, each with its own mailbox. Choice i draws with the bits of seed + i, so choice 0 is what the
// request gives alone; only choice 0 judges the prompt. deadline: on the engine's clock.
absl::StatusOr<std::vector<NewSequence>> MakeSequences(const v1::GenerateRequest& request, const RunnerInfo& runner,
                                                       absl::Time deadline);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_NEW_SEQUENCES_H_
