// One worker, wired: settings -> model -> runner -> engine -> gRPC service and metrics. The shell around it (flags,
// signals, exit codes) is main.cc; tests drive this class in their own process.
// Thread-safety: one thread, which is neither gRPC's nor the engine's.  Owns: everything.
// Errors (Start): kInvalidArgument for a setting, kUnimplemented for a device or model that this build lacks,
// kUnavailable for an address that cannot be bound, and those of the model file and of the runner.
// Cost: Start loads the model; the service listens before (NOT_SERVING).
#ifndef DUNLIN_WORKER_WORKER_PROCESS_H_
#define DUNLIN_WORKER_WORKER_PROCESS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/cache_event_log.h"
#include "dunlin/v1/config.pb.h"
#include "dunlin/v1/inference.pb.h"
#include "worker/engine/engine.h"
#include "worker/metrics.h"
#include "worker/model_runner.h"
#include "worker/service/worker_service.h"

namespace dunlin::worker {

// What the rest needs of a model file.
struct LoadedModel {
  std::unique_ptr<ModelRunner> runner;
  dunlin::v1::Model model;                 // name is the served one
  std::vector<int32_t> end_of_generation;  // ascending
  std::string why_cpu = {};                // DeviceChoice::why_cpu
};

// (bytes packed so far, bytes in all)
using ProgressCallback = std::function<void(uint64_t done, uint64_t total)>;
using ModelLoader = std::function<absl::StatusOr<LoadedModel>(const dunlin::v1::ServerConfig& config,
                                                              const ProgressCallback& progress)>;

// Opens config.model() on the device that config.device() chooses. config: with defaults applied.
absl::StatusOr<LoadedModel> LoadModel(const dunlin::v1::ServerConfig& config, const ProgressCallback& progress);

// --served-model-name, else the file's name without directory and ending.
std::string ServedModelName(const dunlin::v1::ServerConfig& config);

struct StartOptions {
  ProgressCallback progress = {};  // may be empty
  ModelLoader load = LoadModel;
  std::function<void()> device_lost = {};  // called once, on the engine's thread, if that happens; may be empty
  bool serve_metrics = true;               // over HTTP; tests that do not look save the listener's slow end
};

class WorkerProcess {
 public:
  // config: with defaults applied.
  static absl::StatusOr<std::unique_ptr<WorkerProcess>> Start(const dunlin::v1::ServerConfig& config,
                                                              const StartOptions& options);
  // Cancels what is still open.
  ~WorkerProcess();

  const std::string& grpc_address() const { return server_->address(); }
  const std::string& metrics_address() const { return metrics_->address(); }
  // {"grpc": …, "metrics": …}
  std::string AddressesJson() const;
  // One line: device, ISA, threads, pages, seconds, addresses.
  const std::string& summary() const { return summary_; }

  int open_streams() const { return server_->open_streams(); }
  EngineStats Snapshot() const { return engine_->Snapshot(); }

  // Takes no new work and says NOT_SERVING. Idempotent.
  void BeginDrain();
  // False when streams were still open after `timeout`.
  bool WaitDrained(absl::Duration timeout) { return server_->WaitIdle(timeout); }

 private:
  WorkerProcess() = default;

  // In the order of their lives: the server's calls use the engine, the engine reports to the metrics and the log.
  LoadedModel loaded_;
  std::unique_ptr<WorkerMetrics> metrics_;
  std::unique_ptr<CacheEventLog> cache_events_;
  std::unique_ptr<EngineObserver> observer_;  // tells both
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<WorkerServer> server_;
  std::string summary_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_WORKER_PROCESS_H_
