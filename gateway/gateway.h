// A whole gateway in one object: listeners, services, worker pool, admission, metrics. Used by main.cc and, in process,
// by tests.  Thread-safety: thread-safe, except that Shutdown is called once. Owns: everything; the destructor shuts
// down at once.  Borrows: the clock. Errors: Create: those of the model file; kUnavailable for an address that cannot
// be bound, naming it. Source: ours.
#ifndef DUNLIN_GATEWAY_GATEWAY_H_
#define DUNLIN_GATEWAY_GATEWAY_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "gateway/admission.h"

namespace dunlin::gateway {

struct GatewayOptions {
  std::string model_path;
  std::string served_model_name;   // "" = from the file's name
  std::string chat_template_path;  // "" = the model's own
  std::string host = "127.0.0.1";
  uint32_t grpc_port = 0;  // 0 = any free one, here and below
  uint32_t admin_port = 0;
  std::optional<uint32_t> metrics_port;  // unset = no HTTP listener
  std::vector<std::string> worker_addresses;
  Admission::Limits limits;
  std::vector<std::string> api_keys;  // none = every client is let in
  bool trust_tenant_header = false;
  std::optional<bool> reflection;  // on the public listener; unset = only on loopback
  std::optional<uint64_t> seed;    // of requests that bring none; unset = random
  std::string version = "unknown";
  std::string commit = "unknown";
  std::string config;  // shown by GetServerInfo
  absl::Duration worker_poll_interval = absl::Seconds(1);
  const Clock* clock = Clock::Real();
};

class Gateway {
 public:
  // Returns once the listeners are open; workers may come later (health says when).
  static absl::StatusOr<std::unique_ptr<Gateway>> Create(const GatewayOptions& options);
  ~Gateway();
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  // "host:port" as bound.
  const std::string& grpc_address() const;
  const std::string& admin_address() const;
  const std::string& metrics_address() const;  // "" without a listener
  const std::string& model_name() const;
  // The metrics in Prometheus' text format.
  std::string MetricsText() const;

  // Refuses new calls and reports NOT_SERVING; blocks until open streams ended or the time passed, and then ends the
  // rest with UNAVAILABLE and their position. True when all ended by themselves.
  bool Drain(absl::Duration deadline);
  // Takes calls again.
  void Undrain();
  // Ends everything at once. Idempotent.
  void Shutdown();

 private:
  struct Impl;
  explicit Gateway(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_GATEWAY_H_
