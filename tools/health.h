// Asks a server's grpc.health.v1 service. Thread-safety: thread-safe.
#ifndef DUNLIN_TOOLS_HEALTH_H_
#define DUNLIN_TOOLS_HEALTH_H_

#include <string>

#include "absl/time/time.h"

namespace dunlin::tools {

// True when the whole server ("") says SERVING within the limit.
bool IsServing(const std::string& address, absl::Duration limit);

}  // namespace dunlin::tools

#endif  // DUNLIN_TOOLS_HEALTH_H_
