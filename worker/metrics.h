// The worker's Prometheus metrics: what the engine reports while it runs (EngineObserver) and what its snapshot says at
// each scrape, served over HTTP at /metrics. Names and labels are the public contract: never changed silently.
// Thread-safety: thread-safe; the On… methods are called on the engine thread and cost an uncontended lock each.
// Owns: the HTTP listener.  Errors (Create): kUnavailable when the address cannot be bound, naming it.
// Units: bytes, seconds, tokens. A step that holds prefill and decode rows counts its bytes and its time for both
// phases, shared by their tokens; its duration goes to phase="mixed". Bandwidth is bytes over device time of the
// phase's steps of the last seconds, 0 when there were none. Source: ours; the vllm: names are those of vLLM's own
// exporter.
#ifndef DUNLIN_WORKER_METRICS_H_
#define DUNLIN_WORKER_METRICS_H_

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "worker/engine/engine.h"
#include "worker/model_runner.h"

namespace dunlin::worker {

class WorkerMetrics final : public EngineObserver {
 public:
  struct Options {
    std::string version;
    std::string commit;
    std::string model;  // served name
    std::string quantization;
    std::string kv_cache_dtype;
    double memory_utilization = 0;  // as configured
    bool prefix_caching = true;
    RunnerInfo runner;
    std::string bind_address;  // host:port, port 0 = any free one; "" = no listener
  };
  // clock must outlive the metrics.
  static absl::StatusOr<std::unique_ptr<WorkerMetrics>> Create(const Options& options, const Clock* clock);
  ~WorkerMetrics() override;

  // Where the gauges come from; called at each scrape, from the listener's threads. An empty function detaches: after
  // that call returns the old one runs no more.
  void SetSnapshot(std::function<EngineStats()> snapshot);

  void OnStep(int prefill_rows, int decode_rows, const StepResult& result, absl::Duration wall) override;
  void OnScheduled(absl::Duration queue_time) override;
  void OnFirstToken(absl::Duration ttft) override;
  void OnInterTokenLatency(absl::Duration itl) override;
  void OnCancelToFree(absl::Duration cancel_to_free) override;
  void OnCacheEvents(std::span<const uint64_t>, std::span<const uint64_t>) override {}

  double bandwidth_bytes_per_second() const;  // of both phases
  const std::string& address() const;         // "host:port", "" without a listener
  std::string Text() const;                   // what /metrics serves of ours

 private:
  class Impl;
  explicit WorkerMetrics(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_METRICS_H_
