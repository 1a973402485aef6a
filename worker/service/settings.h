// From the configuration to what the runner and the engine take. Thread-safety: pure functions.
// Errors: kInvalidArgument naming the flag and its value.
#ifndef DUNLIN_WORKER_SERVICE_SETTINGS_H_
#define DUNLIN_WORKER_SERVICE_SETTINGS_H_

#include "absl/status/statusor.h"
#include "dunlin/v1/config.pb.h"
#include "worker/engine/engine.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {

// config: with defaults applied; progress is left empty.
absl::StatusOr<RunnerOptions> MakeRunnerOptions(const dunlin::v1::ServerConfig& config);
// Cache events are recorded; end_of_generation is left empty.
EngineOptions MakeEngineOptions(const dunlin::v1::ServerConfig& config);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_SETTINGS_H_
