#include "tests/gateway/fake_worker.h"

#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "gateway/health_service.h"
#include "grpcpp/ext/health_check_service_server_builder_option.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "proto/cache_delta.h"
#include "tests/gateway/tiny_model.h"

namespace dunlin::testing {

bool FakeCall::Scheduled(uint32_t cached_prompt_tokens) {
  worker::v1::GenerateResponse event;
  event.mutable_scheduled()->set_cached_prompt_tokens(cached_prompt_tokens);
  return Send(event);
}

bool FakeCall::Tokens(absl::string_view text, uint32_t index) {
  worker::v1::GenerateResponse event;
  event.mutable_tokens()->set_index(index);
  for (const uint32_t id : BytesAsTokens(text)) event.mutable_tokens()->add_ids(id);
  return Send(event);
}

bool FakeCall::Finished(v1::FinishReason reason, uint32_t index) {
  worker::v1::GenerateResponse event;
  event.mutable_finished()->set_index(index);
  event.mutable_finished()->set_reason(reason);
  return Send(event);
}

bool FakeCall::Summary() {
  worker::v1::GenerateResponse event;
  event.mutable_summary()->mutable_timing()->set_kv_pages_peak(7);
  return Send(event);
}

void FakeCall::WaitUntilCancelled() {
  // The synchronous API offers no notification; the wait is short and ends with the call.
  while (!context_->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

FakeScript Answer(std::string text) {
  return [text = std::move(text)](FakeCall* call) {
    call->Scheduled();
    for (size_t i = 0; i < text.size(); ++i) call->Tokens(text.substr(i, 1));
    call->Finished(v1::FINISH_REASON_EOS);
    call->Summary();
    return grpc::Status::OK;
  };
}

class FakeWorker::Service final : public worker::v1::WorkerService::Service {
 public:
  Service(const Options& options, FakeScript script) : options_(options), script_(std::move(script)) {}

  grpc::Status Generate(grpc::ServerContext* context, const worker::v1::GenerateRequest* request,
                        grpc::ServerWriter<worker::v1::GenerateResponse>* writer) override {
    FakeScript script;
    {
      MutexLock lock(&mu_);
      requests_.push_back(*request);
      script = script_;
    }
    FakeCall call(context, request, writer);
    return script(&call);
  }

  grpc::Status GetInfo(grpc::ServerContext*, const worker::v1::GetInfoRequest*,
                       worker::v1::GetInfoResponse* response) override {
    response->set_worker_id(options_.worker_id);
    response->set_served_model_name(options_.served_model_name);
    response->mutable_model()->set_quantization("Q4_1");
    response->mutable_worker()->set_max_model_len(options_.max_model_len);
    return grpc::Status::OK;
  }

  grpc::Status GetLoad(grpc::ServerContext*, const worker::v1::GetLoadRequest* request,
                       worker::v1::GetLoadResponse* response) override {
    response->mutable_load()->set_total_pages(64);
    response->mutable_load()->set_reserved_pages(3);
    response->mutable_load()->set_pinned_pages(2);
    if (request->cache_events()) {
      const CachePosition since = {request->cache_epoch(), request->cache_sequence(), request->cache_offset()};
      *response->mutable_cache() = ToProto(cache_events_.Read(since, options_.hashes_per_answer));
    }
    return grpc::Status::OK;
  }

  grpc::Status FlushCache(grpc::ServerContext*, const worker::v1::FlushCacheRequest*,
                          worker::v1::FlushCacheResponse* response) override {
    MutexLock lock(&mu_);
    ++flushes_;
    response->set_freed_pages(5);
    return grpc::Status::OK;
  }

  const Options options_;
  CacheEventLog cache_events_{/*max_events=*/64};
  mutable Mutex mu_;
  CondVar changed_;
  FakeScript script_ ABSL_GUARDED_BY(mu_);
  std::vector<worker::v1::GenerateRequest> requests_ ABSL_GUARDED_BY(mu_);
  int flushes_ ABSL_GUARDED_BY(mu_) = 0;
  int cancelled_ ABSL_GUARDED_BY(mu_) = 0;
};

struct FakeWorker::Servers {
  Servers(const Options& options, FakeScript script) : service(options, std::move(script)) {}
  Service service;
  gateway::HealthService health;
  std::unique_ptr<grpc::Server> server;
};

FakeWorker::FakeWorker(const Options& options, FakeScript script)
    : servers_(std::make_unique<Servers>(options, std::move(script))) {
  servers_->health.Set("", options.serving);
  grpc::ServerBuilder builder;
  builder.SetOption(std::make_unique<grpc::HealthCheckServiceServerBuilderOption>(nullptr));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder.AddListeningPort(absl::StrCat("127.0.0.1:", options.port), grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&servers_->service);
  builder.RegisterService(&servers_->health);
  servers_->server = builder.BuildAndStart();
  CHECK(servers_->server != nullptr && port_ != 0) << "no port for the fake worker";
  address_ = absl::StrCat("127.0.0.1:", port_);
}

FakeWorker::~FakeWorker() { Kill(); }

void FakeWorker::Kill() {
  if (servers_->server == nullptr) return;
  servers_->health.Close();
  servers_->server->Shutdown(std::chrono::system_clock::now());
  servers_->server->Wait();
  servers_->server.reset();
}

void FakeWorker::SetScript(FakeScript script) {
  MutexLock lock(&servers_->service.mu_);
  servers_->service.script_ = std::move(script);
}

CacheEventLog* FakeWorker::cache_events() { return &servers_->service.cache_events_; }

void FakeWorker::SetServing(bool serving) { servers_->health.Set("", serving); }

std::vector<worker::v1::GenerateRequest> FakeWorker::requests() const {
  MutexLock lock(&servers_->service.mu_);
  return servers_->service.requests_;
}

int FakeWorker::flushes() const {
  MutexLock lock(&servers_->service.mu_);
  return servers_->service.flushes_;
}

void FakeWorker::CountCancelled() {
  MutexLock lock(&servers_->service.mu_);
  ++servers_->service.cancelled_;
  servers_->service.changed_.SignalAll();
}

void FakeWorker::WaitForCancelled(int count) {
  MutexLock lock(&servers_->service.mu_);
  while (servers_->service.cancelled_ < count) servers_->service.changed_.Wait(&servers_->service.mu_);
}

}  // namespace dunlin::testing
