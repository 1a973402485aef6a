// The workers a gateway may use: one channel each, watched for health, asked for their load, opened for streams.
// Thread-safety: thread-safe. Call-backs run on gRPC threads, outside locks, and must not block.
// Owns: channels, a monitor thread, every call it started (the destructor cancels them and waits).
// Errors: OpenGenerate never fails at once; a stream that cannot reach its worker ends with UNAVAILABLE.
// Cost: one health stream and one GetLoad per second and worker, more while a snapshot of its cache comes in parts.
// Source: ours.
#ifndef DUNLIN_GATEWAY_WORKER_POOL_H_
#define DUNLIN_GATEWAY_WORKER_POOL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "dunlin/v1/control.pb.h"
#include "dunlin/worker/v1/worker.pb.h"
#include "gateway/cache_mirror.h"
#include "gateway/router.h"

namespace dunlin::gateway {

// Takes what a worker streams. Calls come one at a time.
class WorkerStreamHandler {
 public:
  virtual ~WorkerStreamHandler() = default;
  virtual void OnEvent(const worker::v1::GenerateResponse& event) = 0;
  virtual void OnEnd(const absl::Status& status) = 0;  // exactly once, last
};

// One open Generate call on a worker.
class WorkerStream {
 public:
  virtual ~WorkerStream() = default;
  virtual void Start() = 0;        // once
  virtual void RequestNext() = 0;  // one more event, please; asking again before it came changes nothing
  virtual void Cancel() = 0;       // OnEnd still follows
};

struct WorkerSnapshot {
  std::string name;  // the worker's own id once known, "worker<index>" before
  std::string address;
  bool ready = false;
  uint32_t relayed = 0;
  worker::v1::GetInfoResponse info;  // of the last time it was ready
  v1::WorkerLoad load;               // latest
};

class WorkerPool {
 public:
  struct Options {
    std::vector<std::string> addresses;  // host:port or unix:path
    std::string model;                   // workers that serve another one are not used
    absl::Duration load_interval = absl::Seconds(1);
    absl::Duration reconnect_interval = absl::Milliseconds(100);  // between two attempts to watch a worker
    std::function<void()> on_change;                              // after a worker became ready or stopped being it
  };
  virtual ~WorkerPool() = default;
  static std::unique_ptr<WorkerPool> Create(const Options& options);

  virtual std::vector<WorkerSnapshot> Snapshot() const = 0;
  virtual std::vector<WorkerView> Views() const = 0;  // parallel to Snapshot()
  virtual std::string WorkerName(size_t worker) const = 0;
  // What the worker has cached; lives as long as the pool, empty until the worker told.
  virtual const CacheMirror& Cache(size_t worker) const = 0;
  // The smallest context of the ready workers; 0 = none is ready.
  virtual uint32_t ContextTokens() const = 0;
  // deadline: InfiniteFuture = none. Call Start on the result.
  virtual std::shared_ptr<WorkerStream> OpenGenerate(size_t worker, worker::v1::GenerateRequest request,
                                                     absl::Time deadline,
                                                     std::shared_ptr<WorkerStreamHandler> handler) = 0;
  // Drops unreferenced cached pages on every ready worker; `done` gets the sum, or the first error.
  virtual void FlushCaches(std::function<void(absl::Status, uint32_t freed_pages)> done) = 0;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_WORKER_POOL_H_
