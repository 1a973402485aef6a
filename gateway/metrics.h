// The gateway's Prometheus metrics, and the HTTP listener that serves them at /metrics.
// Thread-safety: thread-safe.  Owns: registry and listener.
// Errors: Create: kUnavailable when the address cannot be bound, naming it.  Cost: an atomic add per event.
// Source: ours (the public contract); names are never changed silently.
#ifndef DUNLIN_GATEWAY_METRICS_H_
#define DUNLIN_GATEWAY_METRICS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gateway/stream_timing.h"

namespace dunlin::gateway {

class GatewayMetrics final : public StreamObserver {
 public:
  struct Options {
    std::string model;  // served name: the `model` label
    std::string version;
    std::string commit;
    std::string bind_address;  // host:port, port 0 = any free one; "" = no listener
  };
  static absl::StatusOr<std::unique_ptr<GatewayMetrics>> Create(const Options& options);
  ~GatewayMetrics() override;

  // known_model: false counts under model="unknown", so that clients cannot create series.
  void OnRequestEnd(bool known_model, absl::StatusCode code, absl::Duration took);
  void OnRejected(const absl::Status& status);
  void OnRouted(absl::string_view reason);  // one of kRoutingReasons
  void SetLoad(size_t active_streams, size_t queued_requests);
  void SetWorkerUp(absl::string_view worker, bool up);
  void RemoveWorker(absl::string_view worker);  // its name turned out to be another

  void OnFirstToken(absl::Duration ttft) override;
  void OnInterTokenLatency(absl::Duration gap, uint32_t count) override;
  void OnPromptTokens(uint32_t count) override;
  void OnGeneratedTokens(uint32_t count) override;
  void OnClientStall(absl::Duration stall) override;

  const std::string& address() const { return address_; }  // "" without a listener
  std::string Text() const;                                // what /metrics serves of ours

 private:
  struct Impl;
  GatewayMetrics();
  std::unique_ptr<Impl> impl_;
  std::string address_;
};

// The `reason` label of a refusal: every status that a request ends with before it streams maps to one.
absl::string_view RejectionReason(const absl::Status& status);

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_METRICS_H_
