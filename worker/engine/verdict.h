// Why a sequence ends whatever it is doing. Thread-safety: engine thread only.  Cost: O(1).
#ifndef DUNLIN_WORKER_ENGINE_VERDICT_H_
#define DUNLIN_WORKER_ENGINE_VERDICT_H_

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "worker/engine/engine.h"
#include "worker/engine/sequence.h"

namespace dunlin::worker {

struct Verdict {
  FinishCause cause;
  absl::Status status;
};

// Cancelled, too late or its reader stalled; nothing when it may go on. Looks whether its reader is slow, too.
std::optional<Verdict> Judge(Sequence* sequence, absl::Time now, const EngineOptions& options);

// The token is one of those that the model ends with, and the sequence heeds them.
bool EndsGeneration(const Sequence& sequence, int32_t token, const EngineOptions& options);

// The token is one of those that its client named.
bool IsStopToken(const Sequence& sequence, int32_t token);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_VERDICT_H_
