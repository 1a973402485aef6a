#include "gateway/control_service.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "grpcpp/alarm.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/cache_delta.h"
#include "proto/status_map.h"
#include "proto/validate.h"

namespace dunlin::gateway {
namespace {

constexpr absl::Duration kDefaultInterval = absl::Seconds(1);
constexpr absl::Duration kMinInterval = absl::Milliseconds(50);
constexpr absl::Duration kMaxInterval = absl::Hours(1);
// Hashes in one message, shared among the workers: two megabytes, half of what clients take by default.
constexpr size_t kMaxCacheHashes = size_t{1} << 18;

absl::Duration FromProto(const google::protobuf::Duration& d) {
  return absl::Seconds(d.seconds()) + absl::Nanoseconds(d.nanos());
}

grpc::ServerUnaryReactor* FinishNow(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

// Writes the load, then again every interval; a slow reader gets fewer and newer pictures.
class ControlServiceImpl::LoadWatcher final : public grpc::ServerWriteReactor<v1::WatchLoadResponse> {
 public:
  LoadWatcher(ControlServiceImpl* owner, absl::Duration interval, bool with_cache)
      : owner_(owner), interval_(interval), with_cache_(with_cache) {}

  void Begin() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    WriteOrFinish();
  }
  void End() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    ending_ = true;
    // An alarm that waits comes at once; else the write in flight (or nothing) leads to Finish.
    if (alarm_set_) {
      alarm_.Cancel();
    } else if (!writing_) {
      WriteOrFinish();
    }
  }

  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    writing_ = false;
    if (!ok) ending_ = true;
    if (ending_ || cache_left_) return WriteOrFinish();
    alarm_set_ = true;
    alarm_.Set(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(interval_), [this](bool) { OnAlarm(); });
  }
  void OnCancel() override { End(); }
  void OnDone() override {
    owner_->Remove(this);
    delete this;
  }

 private:
  void OnAlarm() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    alarm_set_ = false;
    WriteOrFinish();
  }
  void WriteOrFinish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_) return;
    if (ending_) {
      finished_ = true;
      Finish(grpc::Status(grpc::StatusCode::CANCELLED, "load watch ended"));
      return;
    }
    writing_ = true;
    message_.Clear();
    owner_->FillLoad(message_.mutable_load());
    cache_left_ = with_cache_ && owner_->AddCaches(&positions_, message_.mutable_load());
    StartWrite(&message_);
  }

  ControlServiceImpl* const owner_;
  const absl::Duration interval_;
  const bool with_cache_;
  Mutex mu_;
  std::vector<CachePosition> positions_ ABSL_GUARDED_BY(mu_);
  bool cache_left_ ABSL_GUARDED_BY(mu_) = false;  // the next message follows at once
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mu_);
  v1::WatchLoadResponse message_ ABSL_GUARDED_BY(mu_);
  bool alarm_set_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

void ControlServiceImpl::Close() {
  MutexLock lock(&mu_);
  closed_ = true;
  for (LoadWatcher* watcher : watchers_) watcher->End();
}

void ControlServiceImpl::Remove(LoadWatcher* watcher) {
  MutexLock lock(&mu_);
  watchers_.erase(watcher);
}

void ControlServiceImpl::FillLoad(v1::GetLoadResponse* load) const {
  for (const WorkerSnapshot& worker : services_->workers->Snapshot()) {
    v1::WorkerLoad* entry = load->add_workers();
    *entry = worker.load;
    entry->set_worker_id(worker.name);
    entry->set_ready(worker.ready);
  }
  const AdmissionGate::Counts counts = services_->gate->counts();
  load->set_active_streams(static_cast<uint32_t>(counts.active));
  load->set_queued_requests(static_cast<uint32_t>(counts.queued));
}

bool ControlServiceImpl::AddCaches(std::vector<CachePosition>* positions, v1::GetLoadResponse* load) const {
  const size_t num_workers = static_cast<size_t>(load->workers_size());
  positions->resize(num_workers);
  bool left = false;
  for (size_t i = 0; i < num_workers; ++i) {
    const size_t share = std::max<size_t>(kMaxCacheHashes / num_workers, 1);
    const CacheDelta delta = services_->workers->Cache(i).log().Read((*positions)[i], share);
    (*positions)[i] = delta.End();
    left |= delta.more;
    *load->mutable_workers(static_cast<int>(i))->mutable_cache() = ToProto(delta);
  }
  return left;
}

grpc::ServerUnaryReactor* ControlServiceImpl::GetServerInfo(grpc::CallbackServerContext* context,
                                                            const v1::GetServerInfoRequest*,
                                                            v1::GetServerInfoResponse* response) {
  response->set_version(hooks_->version);
  response->set_commit(hooks_->commit);
  response->set_config(hooks_->config);
  *response->add_models() = model_->Describe(*services_->workers);
  for (const WorkerSnapshot& worker : services_->workers->Snapshot()) {
    v1::WorkerInfo* entry = response->add_workers();
    *entry = worker.info.worker();
    entry->set_worker_id(worker.name);
    entry->set_address(worker.address);
    entry->set_ready(worker.ready);
  }
  absl::Duration rest;
  const absl::Duration uptime = services_->clock->Now() - hooks_->start;
  response->mutable_uptime()->set_seconds(absl::IDivDuration(uptime, absl::Seconds(1), &rest));
  response->mutable_uptime()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlServiceImpl::GetLoad(grpc::CallbackServerContext* context,
                                                      const v1::GetLoadRequest* request,
                                                      v1::GetLoadResponse* response) {
  FillLoad(response);
  std::vector<CachePosition> positions;
  if (request->include_cache()) AddCaches(&positions, response);
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerWriteReactor<v1::WatchLoadResponse>* ControlServiceImpl::WatchLoad(grpc::CallbackServerContext*,
                                                                               const v1::WatchLoadRequest* request) {
  const absl::Duration interval = request->has_interval()
                                      ? std::clamp(FromProto(request->interval()), kMinInterval, kMaxInterval)
                                      : kDefaultInterval;
  auto* watcher = new LoadWatcher(this, interval, !request->omit_cache());
  MutexLock lock(&mu_);
  watchers_.insert(watcher);
  if (closed_) {
    watcher->End();
  } else {
    watcher->Begin();
  }
  return watcher;
}

grpc::ServerUnaryReactor* ControlServiceImpl::Abort(grpc::CallbackServerContext* context,
                                                    const v1::AbortRequest* request, v1::AbortResponse* response) {
  if (const std::shared_ptr<RelayStream> call = services_->calls->Find(request->request_id()); call != nullptr) {
    response->set_found(true);
    call->Abort();
  }
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlServiceImpl::Drain(grpc::CallbackServerContext* context,
                                                    const v1::DrainRequest* request, v1::DrainResponse*) {
  hooks_->drain(request->has_deadline() ? std::max(FromProto(request->deadline()), absl::ZeroDuration())
                                        : absl::InfiniteDuration());
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlServiceImpl::Undrain(grpc::CallbackServerContext* context, const v1::UndrainRequest*,
                                                      v1::UndrainResponse*) {
  hooks_->undrain();
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlServiceImpl::ReloadConfig(grpc::CallbackServerContext* context,
                                                           const v1::ReloadConfigRequest*, v1::ReloadConfigResponse*) {
  return FinishNow(context, NotBuiltError("ReloadConfig"));
}

grpc::ServerUnaryReactor* ControlServiceImpl::FlushCache(grpc::CallbackServerContext* context,
                                                         const v1::FlushCacheRequest* request,
                                                         v1::FlushCacheResponse* response) {
  if (const absl::Status status = model_->CheckName(request->model()); !status.ok()) return FinishNow(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  services_->workers->FlushCaches([reactor, response](const absl::Status& status, uint32_t freed_pages) {
    response->set_freed_pages(freed_pages);
    reactor->Finish(ToGrpcStatus(status));
  });
  return reactor;
}

}  // namespace dunlin::gateway
