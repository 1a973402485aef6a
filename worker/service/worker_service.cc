#include "worker/service/worker_service.h"

#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <chrono>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"
#include "proto/cache_delta.h"
#include "proto/status_map.h"
#include "worker/service/active_calls.h"
#include "worker/service/generate_call.h"
#include "worker/service/new_sequences.h"
#include "worker/service/task_thread.h"

namespace dunlin::worker {
namespace {

constexpr char kServiceName[] = "dunlin.worker.v1.WorkerService";
// A prompt of a million tokens fits; what a flood of such messages may hold at once is the quota's to bound.
constexpr int kMaxReceiveBytes = 16 << 20;
constexpr size_t kQuotaBytes = size_t{256} << 20;
constexpr size_t kMaxQueuedFlushes = 16;
// Of one answer: half a megabyte.
constexpr size_t kMaxCacheHashes = size_t{1} << 16;

uint32_t Unsigned(int64_t value) { return value < 0 ? 0 : static_cast<uint32_t>(value); }

void FillLoad(const EngineStats& stats, dunlin::v1::WorkerLoad* load) {
  load->set_running(Unsigned(stats.running));
  load->set_waiting(Unsigned(stats.waiting));
  load->set_waiting_preempted(Unsigned(stats.waiting_preempted));
  load->set_blank_pages(Unsigned(stats.blank_pages));
  load->set_held_pages(Unsigned(stats.held_pages));
  load->set_cached_pages(Unsigned(stats.cached_pages));
  load->set_total_pages(Unsigned(stats.total_pages));
  load->set_decode_tokens_per_second(stats.decode_tokens_per_second);
  load->set_steps(stats.steps);
  load->set_quarantine_pages(Unsigned(stats.quarantine_pages));
  load->set_reserved_pages(Unsigned(stats.reserved_pages));
  load->set_pinned_pages(Unsigned(stats.pinned_pages));
  load->set_preemptions(stats.preemptions);
  load->set_recomputed_tokens(stats.recomputed_tokens);
  load->set_evictions(stats.evictions);
  load->set_prefix_query_tokens(stats.prefix_query_tokens);
  load->set_prefix_hit_tokens(stats.prefix_hit_tokens);
  load->set_host_tier_pages(Unsigned(stats.host_tier_pages));
  load->set_host_tier_capacity_pages(Unsigned(stats.host_tier_slots));
  load->set_host_tier_hit_tokens(stats.host_tier_hit_tokens);
  load->set_vtc_spread_tokens(stats.vtc_spread_tokens);
  load->set_invariant_failures(stats.invariant_failures);
}

// On the engine's clock, whose zero is its own.
absl::Time DeadlineOf(const grpc::CallbackServerContext& context, const Clock& clock) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return clock.Now() + (absl::FromChrono(deadline) - absl::Now());
}

class Service final : public v1::WorkerService::CallbackService {
 public:
  explicit Service(std::string worker_id) : worker_id_(std::move(worker_id)), tasks_(kMaxQueuedFlushes) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override {
    const std::shared_ptr<const ServingEngine> serving = Get();
    if (serving == nullptr) return RefuseGenerate(NotReady());
    absl::StatusOr<std::vector<NewSequence>> sequences =
        MakeSequences(*request, serving->runner, DeadlineOf(*context, *serving->clock));
    if (!sequences.ok()) return RefuseGenerate(sequences.status());
    return StartGenerate(serving->engine, &active_, *std::move(sequences));
  }

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context, const v1::GetInfoRequest*,
                                    v1::GetInfoResponse* response) override {
    if (const std::shared_ptr<const ServingEngine> serving = Get()) {
      *response = serving->info;
      response->mutable_worker()->set_ready(ready());
    }
    response->set_worker_id(worker_id_);
    response->mutable_worker()->set_worker_id(worker_id_);
    return Answer(context, grpc::Status::OK);
  }

  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const v1::GetLoadRequest* request,
                                    v1::GetLoadResponse* response) override {
    dunlin::v1::WorkerLoad* load = response->mutable_load();
    load->set_worker_id(worker_id_);
    if (const std::shared_ptr<const ServingEngine> serving = Get()) {
      const EngineStats stats = serving->engine->Snapshot();
      load->set_ready(ready() && !stats.lost_device);
      FillLoad(stats, load);
      if (request->cache_events() && serving->cache_events != nullptr) {
        const CachePosition since = {request->cache_epoch(), request->cache_sequence(), request->cache_offset()};
        *response->mutable_cache() = ToProto(serving->cache_events->Read(since, kMaxCacheHashes));
      }
      if (serving->bandwidth_bytes_per_second) {
        load->set_memory_bandwidth_bytes_per_second(serving->bandwidth_bytes_per_second());
      }
    }
    return Answer(context, grpc::Status::OK);
  }

  grpc::ServerUnaryReactor* FlushCache(grpc::CallbackServerContext* context, const v1::FlushCacheRequest*,
                                       v1::FlushCacheResponse* response) override {
    const std::shared_ptr<const ServingEngine> serving = Get();
    if (serving == nullptr) return Answer(context, ToGrpcStatus(NotReady()));
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    const bool posted = tasks_.Post([serving, response, reactor] {
      response->set_freed_pages(Unsigned(serving->engine->FlushCache()));
      reactor->Finish(grpc::Status::OK);
    });
    if (!posted) {
      reactor->Finish(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                                   absl::StrCat(kMaxQueuedFlushes, " cache flushes are waiting already")));
    }
    return reactor;
  }

  void SetServing(ServingEngine serving) ABSL_LOCKS_EXCLUDED(mu_) {
    auto shared = std::make_shared<const ServingEngine>(std::move(serving));
    MutexLock lock(&mu_);
    serving_ = std::move(shared);
    ready_ = true;
  }
  void SetNotReady() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    ready_ = false;
  }
  ActiveCalls* active() { return &active_; }

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const grpc::Status& status) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }
  absl::Status NotReady() const {
    return absl::UnavailableError(absl::StrCat("worker ", worker_id_, " is still loading its model"));
  }
  std::shared_ptr<const ServingEngine> Get() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return serving_;
  }
  bool ready() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return ready_;
  }

  const std::string worker_id_;
  ActiveCalls active_;
  mutable Mutex mu_;
  std::shared_ptr<const ServingEngine> serving_ ABSL_GUARDED_BY(mu_);
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  TaskThread tasks_;
};

// "unix:path", or "host:port" split at its last colon.
absl::Status CheckAddress(const std::string& listen) {
  if (absl::StartsWith(listen, "unix:") && listen.size() > 5) return absl::OkStatus();
  const size_t colon = listen.rfind(':');
  uint32_t port = 0;
  const bool good = colon != std::string::npos && colon > 0 && absl::SimpleAtoi(listen.substr(colon + 1), &port) &&
                    port <= 65535 && !absl::StartsWith(listen, "unix:");
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--listen: \"", listen, "\" is neither host:port nor unix:path"));
}

void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxReceiveBytes);
  builder->SetMaxSendMessageSize(-1);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Gateways ping every second, also through a prefill that sends nothing; half of that leaves room for jitter.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 512);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8 << 10);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5'000);
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  grpc::ResourceQuota quota("worker");
  quota.Resize(kQuotaBytes);
  builder->SetResourceQuota(quota);
}

}  // namespace

class WorkerServer::Impl {
 public:
  Impl(std::string listen, std::string worker_id) : listen_(std::move(listen)), service_(std::move(worker_id)) {}
  ~Impl() { Shutdown(absl::ZeroDuration()); }

  absl::Status Start() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(listen_, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    SetLimits(&builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", listen_));
    }
    SetHealth(false);
    address_ =
        absl::StartsWith(listen_, "unix:") ? listen_ : absl::StrCat(listen_.substr(0, listen_.rfind(':') + 1), port);
    return absl::OkStatus();
  }

  void SetHealth(bool serving) {
    if (server_ == nullptr) return;  // shut down: nobody is left to ask
    grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
    CHECK(health != nullptr) << "built without the health service";
    health->SetServingStatus(serving);  // "" and every name it knows
    health->SetServingStatus(kServiceName, serving);
  }

  void Shutdown(absl::Duration grace) {
    if (server_ == nullptr) return;
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    // The last OnDone may still be running.
    service_.active()->WaitIdle(absl::Seconds(5));
    server_.reset();
  }

  Service& service() { return service_; }
  const std::string& address() const { return address_; }

 private:
  const std::string listen_;
  std::string address_;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
};

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(const std::string& listen,
                                                                  const std::string& worker_id) {
  if (absl::Status status = CheckAddress(listen); !status.ok()) return status;
  auto impl = std::make_unique<Impl>(listen, worker_id);
  if (absl::Status status = impl->Start(); !status.ok()) return status;
  return std::unique_ptr<WorkerServer>(new WorkerServer(std::move(impl)));
}

WorkerServer::WorkerServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerServer::~WorkerServer() = default;

const std::string& WorkerServer::address() const { return impl_->address(); }
void WorkerServer::SetReady(ServingEngine serving) {
  CHECK(serving.engine != nullptr && serving.clock != nullptr) << "serving without an engine";
  impl_->service().SetServing(std::move(serving));
  impl_->SetHealth(true);
}
void WorkerServer::SetNotServing() {
  impl_->service().SetNotReady();
  impl_->SetHealth(false);
}
int WorkerServer::open_streams() const { return impl_->service().active()->count(); }
bool WorkerServer::WaitIdle(absl::Duration timeout) { return impl_->service().active()->WaitIdle(timeout); }
void WorkerServer::Shutdown(absl::Duration grace) { impl_->Shutdown(grace); }

}  // namespace dunlin::worker
