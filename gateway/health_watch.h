// Follows the health of one worker until the stream ends. Thread-safety: gRPC's from the moment it is started; it
// deletes itself after on_end. Call-backs run on gRPC threads, one at a time. Source: the gRPC health checking
// protocol.
#ifndef DUNLIN_GATEWAY_HEALTH_WATCH_H_
#define DUNLIN_GATEWAY_HEALTH_WATCH_H_

#include <functional>
#include <utility>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"

namespace dunlin::gateway {

class HealthWatch final : public grpc::ClientReadReactor<grpc::health::v1::HealthCheckResponse> {
 public:
  using Response = grpc::health::v1::HealthCheckResponse;

  // The stub must outlive the watch. Call StartCall to begin. on_end: the last call that finds the watch alive;
  // on_gone: it is destroyed, its hold on the channel with it.
  HealthWatch(grpc::health::v1::Health::Stub* stub, std::function<void(bool serving)> on_health,
              std::function<void(const grpc::Status&)> on_end, std::function<void()> on_gone)
      : on_health_(std::move(on_health)), on_end_(std::move(on_end)), on_gone_(std::move(on_gone)) {
    // Waits for the connection instead of failing: the channel's own backoff paces the attempts.
    context_.set_wait_for_ready(true);
    stub->async()->Watch(&context_, &request_, this);
    StartRead(&response_);
  }
  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    on_health_(response_.status() == Response::SERVING);
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    on_end_(status);
    const std::function<void()> on_gone = std::move(on_gone_);
    delete this;
    on_gone();
  }

 private:
  const std::function<void(bool)> on_health_;
  const std::function<void(const grpc::Status&)> on_end_;
  std::function<void()> on_gone_;
  grpc::ClientContext context_;
  grpc::health::v1::HealthCheckRequest request_;
  Response response_;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_HEALTH_WATCH_H_
