// Whether a sequence can be served at all. Thread-safety: thread-safe.
#ifndef DUNLIN_WORKER_ENGINE_CHECK_SEQUENCE_H_
#define DUNLIN_WORKER_ENGINE_CHECK_SEQUENCE_H_

#include "absl/status/status.h"
#include "worker/engine/engine.h"

namespace dunlin::worker {

// max_model_len: tokens of one sequence. kInvalidArgument or kOutOfRange naming the field, its value and the limit.
absl::Status CheckSequence(const NewSequence& sequence, int vocab_size, int max_model_len);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_CHECK_SEQUENCE_H_
