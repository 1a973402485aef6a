// grpc.health.v1 for our listeners: Check and Watch by name. Ours instead of the packaged one, because that starts as
// SERVING and is switched on for every server of a process at once. Thread-safety: thread-safe.  Owns: the table of
// names; watchers delete themselves when their calls end. Errors: Check: NOT_FOUND for a name never set; Watch reports
// SERVICE_UNKNOWN for it and goes on. Source: the gRPC health checking protocol.
#ifndef DUNLIN_GATEWAY_HEALTH_SERVICE_H_
#define DUNLIN_GATEWAY_HEALTH_SERVICE_H_

#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace dunlin::gateway {

class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  // Tells every watcher of `service` when the status changed.
  void Set(absl::string_view service, bool serving) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends every Watch, and every later one at once: a server waits for its open calls when it shuts down.
  void Close() ABSL_LOCKS_EXCLUDED(mu_);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override ABSL_LOCKS_EXCLUDED(mu_);
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context, const grpc::health::v1::HealthCheckRequest* request) override
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  class Watcher;
  Status StatusOf(absl::string_view service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Remove(Watcher* watcher) ABSL_LOCKS_EXCLUDED(mu_);

  mutable Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_map<std::string, bool> serving_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<Watcher*> watchers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_HEALTH_SERVICE_H_
