#include "gateway/health_service.h"

#include <optional>
#include <utility>

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace dunlin::gateway {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One Watch call. Its own lock is taken after the service's, never before.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService* owner, std::string service) : owner_(owner), service_(std::move(service)) {}

  const std::string& service() const { return service_; }

  void Send(Status status) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    wanted_ = status;
    Advance();
  }
  void End() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    ending_ = true;
    Advance();
  }

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) ending_ = true;
    Advance();
  }
  void OnCancel() override { End(); }
  void OnDone() override {
    owner_->Remove(this);
    delete this;
  }

 private:
  // At most one write in flight, Finish once and only between writes. Completions never run inside these calls.
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (ending_) {
      finished_ = true;
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "health watch ended"));
      return;
    }
    if (!wanted_.has_value() || wanted_ == sent_) return;
    sent_ = wanted_;
    message_.set_status(*wanted_);
    writing_ = true;
    StartWrite(&message_);
  }

  HealthService* const owner_;
  const std::string service_;
  Mutex mu_;
  std::optional<Status> wanted_ ABSL_GUARDED_BY(mu_);
  std::optional<Status> sent_ ABSL_GUARDED_BY(mu_);
  HealthCheckResponse message_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

HealthService::Status HealthService::StatusOf(absl::string_view service) const {
  const auto it = serving_.find(service);
  if (it == serving_.end()) return HealthCheckResponse::SERVICE_UNKNOWN;
  return it->second ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

void HealthService::Set(absl::string_view service, bool serving) {
  // Watchers are told under the lock: they leave the set before they die, so none dies meanwhile.
  MutexLock lock(&mu_);
  const auto [it, inserted] = serving_.emplace(std::string(service), serving);
  if (!inserted && it->second == serving) return;
  it->second = serving;
  for (Watcher* watcher : watchers_) {
    if (watcher->service() == service) watcher->Send(StatusOf(service));
  }
}

void HealthService::Close() {
  MutexLock lock(&mu_);
  closed_ = true;
  for (Watcher* watcher : watchers_) watcher->End();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context, const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  Status status = HealthCheckResponse::UNKNOWN;
  {
    MutexLock lock(&mu_);
    status = StatusOf(request->service());
  }
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "service '" + request->service() + "' is not known"));
    return reactor;
  }
  response->set_status(status);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(grpc::CallbackServerContext*,
                                                                    const HealthCheckRequest* request) {
  auto* watcher = new Watcher(this, request->service());
  MutexLock lock(&mu_);
  watchers_.insert(watcher);
  if (closed_) {
    watcher->End();
  } else {
    watcher->Send(StatusOf(request->service()));
  }
  return watcher;
}

void HealthService::Remove(Watcher* watcher) {
  MutexLock lock(&mu_);
  watchers_.erase(watcher);
}

}  // namespace dunlin::gateway
