// `--dry-run`: what would fit in memory and why, from the model file's header, without loading the weights.
// Thread-safety: reads the file and the memory figures of the host or of the device, which it opens. Errors: those that
// starting would have met as far as the header tells: a setting, a model file, kResourceExhausted saying what would
// fit. Cost: milliseconds.
#ifndef DUNLIN_WORKER_SERVICE_DRY_RUN_H_
#define DUNLIN_WORKER_SERVICE_DRY_RUN_H_

#include <string>

#include "absl/status/statusor.h"
#include "dunlin/v1/config.pb.h"

namespace dunlin::worker {

// The plan as text, or as one JSON object if config.json(). config: with defaults applied.
absl::StatusOr<std::string> DryRun(const dunlin::v1::ServerConfig& config);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_DRY_RUN_H_
