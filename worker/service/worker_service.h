// The worker's gRPC server: dunlin.worker.v1.WorkerService and grpc.health.v1 on one listener. It listens at once and
// is NOT_SERVING (health "" and "dunlin.worker.v1.WorkerService"; Generate: UNAVAILABLE) until SetReady. Thread-safety:
// its own calls from one thread (open_streams from any).  Owns: the server.  Borrows: the engine of SetReady, which
// must outlive Shutdown. Errors (Start): kInvalidArgument for an address of another form, kUnavailable when it cannot
// be bound.
#ifndef DUNLIN_WORKER_SERVICE_WORKER_SERVICE_H_
#define DUNLIN_WORKER_SERVICE_WORKER_SERVICE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/cache_event_log.h"
#include "base/clock.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "worker/engine/engine.h"
#include "worker/model_runner.h"

namespace dunlin::worker {

struct ServingEngine {
  // Borrowed, all three.
  Engine* engine = nullptr;
  const Clock* clock = nullptr;  // the engine's
  RunnerInfo runner;
  const CacheEventLog* cache_events = nullptr;         // for GetLoad; may be nullptr
  v1::GetInfoResponse info;                            // worker.ready is filled in
  std::function<double()> bandwidth_bytes_per_second;  // latest, for GetLoad; may be empty
};

class WorkerServer {
 public:
  // listen: "host:port" (0 = any free port), "[v6]:port" or "unix:path".
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const std::string& listen, const std::string& worker_id);
  // Shuts down at once if that was not done.
  ~WorkerServer();

  // Where clients connect: "host:port" with the bound port, or "unix:path".
  const std::string& address() const;
  void SetReady(ServingEngine serving);
  // Health says NOT_SERVING; open streams go on. New ones are the engine's to refuse (Engine::StopAdmission).
  void SetNotServing();
  int open_streams() const;
  // False when streams are still open after `timeout`.
  bool WaitIdle(absl::Duration timeout);
  // Refuses new calls; open ones may go on for `grace`, then they are cancelled. Returns when none is left. Idempotent.
  void Shutdown(absl::Duration grace);

 private:
  class Impl;
  explicit WorkerServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SERVICE_WORKER_SERVICE_H_
