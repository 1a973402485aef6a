#include "gateway/worker_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "dunlin/worker/v1/worker.grpc.pb.h"
#include "gateway/health_watch.h"
#include "gateway/worker_channel.h"
#include "gateway/worker_stream.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;
constexpr std::chrono::seconds kUnaryTimeout{2};

struct Worker {
  // Constant after construction.
  std::string address;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<worker::v1::WorkerService::Stub> stub;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
  // Guarded by the pool's mutex.
  std::string name;
  HealthWatch* watch = nullptr;
  SteadyTime next_watch{};
  bool serving = false;
  bool ready = false;
  bool asking_info = false;
  bool asking_load = false;
  bool refused = false;  // serves another model; said so once
  SteadyTime next_info{};
  SteadyTime next_load{};
  worker::v1::GetInfoResponse info;
  v1::WorkerLoad load;
  // Fed by the one GetLoad that is open at a time.
  CacheMirror cache;
  std::shared_ptr<std::atomic<uint32_t>> relayed = std::make_shared<std::atomic<uint32_t>>(0);
};

class WorkerPoolImpl final : public WorkerPool {
 public:
  explicit WorkerPoolImpl(const Options& options);
  ~WorkerPoolImpl() override;

  std::vector<WorkerSnapshot> Snapshot() const override ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<WorkerView> Views() const override ABSL_LOCKS_EXCLUDED(mu_);
  std::string WorkerName(size_t worker) const override ABSL_LOCKS_EXCLUDED(mu_);
  const CacheMirror& Cache(size_t worker) const override;
  uint32_t ContextTokens() const override ABSL_LOCKS_EXCLUDED(mu_);
  std::shared_ptr<WorkerStream> OpenGenerate(size_t worker, worker::v1::GenerateRequest request, absl::Time deadline,
                                             std::shared_ptr<WorkerStreamHandler> handler) override;
  void FlushCaches(std::function<void(absl::Status, uint32_t)> done) override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void OnHealth(size_t worker, bool serving) ABSL_LOCKS_EXCLUDED(mu_);
  void OnWatchEnd(size_t worker, const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mu_);
  void Run() ABSL_LOCKS_EXCLUDED(mu_);
  // Starts what is due; returns when something is due next.
  SteadyTime StartDueCalls() ABSL_LOCKS_EXCLUDED(mu_);
  void AskInfo(size_t worker) ABSL_LOCKS_EXCLUDED(mu_);
  void AskLoad(size_t worker) ABSL_LOCKS_EXCLUDED(mu_);
  void OnInfo(size_t worker, const absl::Status& status, const worker::v1::GetInfoResponse& info)
      ABSL_LOCKS_EXCLUDED(mu_);
  // False when the worker must not be used.
  bool Accept(Worker* worker, const worker::v1::GetInfoResponse& info) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CallBegins() ABSL_LOCKS_EXCLUDED(mu_);
  void CallEnds() ABSL_LOCKS_EXCLUDED(mu_);
  // A unary call whose state lives until `done` ran, counted in open_calls_.
  template <typename Request, typename Response, typename Async>
  void Ask(Async async, std::function<void(const absl::Status&, const Response&)> done, Request request = {})
      ABSL_LOCKS_EXCLUDED(mu_);
  void OnLoad(size_t worker, const absl::Status& status, const worker::v1::GetLoadResponse& response)
      ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  mutable Mutex mu_;
  CondVar changed_;
  std::vector<std::unique_ptr<Worker>> workers_;  // the vector is constant after construction
  int open_calls_ ABSL_GUARDED_BY(mu_) = 0;
  bool wake_ ABSL_GUARDED_BY(mu_) = false;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::thread monitor_;
};

WorkerPoolImpl::WorkerPoolImpl(const Options& options) : options_(options) {
  for (size_t i = 0; i < options.addresses.size(); ++i) {
    auto worker = std::make_unique<Worker>();
    worker->address = options.addresses[i];
    worker->name = absl::StrCat("worker", i);
    worker->channel = CreateWorkerChannel(worker->address);
    worker->stub = worker::v1::WorkerService::NewStub(worker->channel);
    worker->health = grpc::health::v1::Health::NewStub(worker->channel);
    workers_.push_back(std::move(worker));
  }
  monitor_ = std::thread([this] { Run(); });
}

WorkerPoolImpl::~WorkerPoolImpl() {
  {
    MutexLock lock(&mu_);
    closing_ = true;
    for (const auto& worker : workers_) {
      if (worker->watch != nullptr) worker->watch->Cancel();
    }
  }
  changed_.SignalAll();
  monitor_.join();
  MutexLock lock(&mu_);
  while (open_calls_ > 0) changed_.Wait(&mu_);
}

void WorkerPoolImpl::CallBegins() {
  MutexLock lock(&mu_);
  ++open_calls_;
}

// Only when the call's context is gone: it holds the channel, and whoever lets go of the process' last channel waits
// for gRPC's own threads to end, so that must not be one of these.
void WorkerPoolImpl::CallEnds() {
  // Signalled under the lock: the destructor may go on as soon as it is released.
  MutexLock lock(&mu_);
  --open_calls_;
  changed_.SignalAll();
}

template <typename Request, typename Response, typename Async>
void WorkerPoolImpl::Ask(Async async, std::function<void(const absl::Status&, const Response&)> done, Request request) {
  struct Call {
    grpc::ClientContext context;
    Request request;
    Response response;
  };
  auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->context.set_deadline(std::chrono::system_clock::now() + kUnaryTimeout);
  CallBegins();
  grpc::ClientContext* const context = &call->context;
  const Request* const to = &call->request;
  Response* const from = &call->response;
  async(context, to, from, [this, call = std::move(call), done = std::move(done)](grpc::Status status) mutable {
    done(FromGrpcStatus(status), call->response);
    call.reset();  // see CallEnds
    CallEnds();
  });
}

void WorkerPoolImpl::OnHealth(size_t index, bool serving) {
  bool changed = false;
  {
    MutexLock lock(&mu_);
    Worker& worker = *workers_[index];
    worker.serving = serving;
    worker.next_info = SteadyTime{};
    if (!serving && worker.ready) {
      worker.ready = false;
      changed = true;
    }
    wake_ = true;
    changed_.SignalAll();
  }
  if (changed && options_.on_change) options_.on_change();
}

void WorkerPoolImpl::OnWatchEnd(size_t index, const grpc::Status& status) {
  OnHealth(index, false);
  MutexLock lock(&mu_);
  Worker& worker = *workers_[index];
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED && !worker.refused) {
    worker.refused = true;
    std::fprintf(stderr, "worker %s has no grpc.health.v1.Health service and is not used\n", worker.address.c_str());
  }
  worker.watch = nullptr;
  worker.next_watch = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options_.reconnect_interval);
  wake_ = true;
  changed_.SignalAll();
}

bool WorkerPoolImpl::Accept(Worker* worker, const worker::v1::GetInfoResponse& info) {
  const bool same_model = info.served_model_name().empty() || info.served_model_name() == options_.model;
  if (same_model) {
    worker->refused = false;
    return true;
  }
  if (!worker->refused) {
    std::fprintf(stderr, "worker %s serves model '%s', not '%s', and is not used\n", worker->address.c_str(),
                 info.served_model_name().c_str(), options_.model.c_str());
  }
  worker->refused = true;
  return false;
}

void WorkerPoolImpl::OnInfo(size_t index, const absl::Status& status, const worker::v1::GetInfoResponse& info) {
  bool changed = false;
  {
    MutexLock lock(&mu_);
    Worker& worker = *workers_[index];
    worker.asking_info = false;
    worker.next_info = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(options_.load_interval);
    if (status.ok() && worker.serving && Accept(&worker, info)) {
      worker.info = info;
      if (!info.worker_id().empty()) worker.name = info.worker_id();
      worker.ready = true;
      worker.next_load = SteadyTime{};
      changed = true;
    }
    wake_ = true;
    changed_.SignalAll();
  }
  if (changed && options_.on_change) options_.on_change();
}

void WorkerPoolImpl::AskInfo(size_t index) {
  Ask<worker::v1::GetInfoRequest, worker::v1::GetInfoResponse>(
      [stub = workers_[index]->stub.get()](auto... args) { stub->async()->GetInfo(std::move(args)...); },
      [this, index](const absl::Status& status, const worker::v1::GetInfoResponse& info) {
        OnInfo(index, status, info);
      });
}

void WorkerPoolImpl::AskLoad(size_t index) {
  const CachePosition& known = workers_[index]->cache.position();
  worker::v1::GetLoadRequest request;
  request.set_cache_events(true);
  request.set_cache_epoch(known.epoch);
  request.set_cache_sequence(known.sequence);
  request.set_cache_offset(known.offset);
  Ask<worker::v1::GetLoadRequest, worker::v1::GetLoadResponse>(
      [stub = workers_[index]->stub.get()](auto... args) { stub->async()->GetLoad(std::move(args)...); },
      [this, index](const absl::Status& status, const worker::v1::GetLoadResponse& response) {
        OnLoad(index, status, response);
      },
      std::move(request));
}

void WorkerPoolImpl::OnLoad(size_t index, const absl::Status& status, const worker::v1::GetLoadResponse& response) {
  Worker& worker = *workers_[index];
  bool at_once = false;
  if (status.ok() && response.has_cache()) {
    // A gap is a reason to ask again, too, but no reason to hurry: a worker that always causes one must cost little.
    at_once = worker.cache.Apply(response.cache()) == CacheMirror::Outcome::kApplied && response.cache().more();
  }
  MutexLock lock(&mu_);
  worker.asking_load = false;
  worker.next_load = std::chrono::steady_clock::now();
  if (!at_once) worker.next_load += absl::ToChronoNanoseconds(options_.load_interval);
  if (status.ok()) worker.load = response.load();
  wake_ = true;
  changed_.SignalAll();
}

SteadyTime WorkerPoolImpl::StartDueCalls() {
  const SteadyTime now = std::chrono::steady_clock::now();
  SteadyTime next = now + std::chrono::hours(1);
  const auto due = [&](SteadyTime when) {
    if (when <= now) return true;
    next = std::min(next, when);
    return false;
  };
  for (size_t i = 0; i < workers_.size(); ++i) {
    Worker& worker = *workers_[i];
    bool ask_info = false;
    bool ask_load = false;
    {
      MutexLock lock(&mu_);
      if (closing_) return next;
      if (worker.watch == nullptr && due(worker.next_watch)) {
        ++open_calls_;
        worker.watch = new HealthWatch(
            worker.health.get(), [this, i](bool serving) { OnHealth(i, serving); },
            [this, i](const grpc::Status& status) { OnWatchEnd(i, status); }, [this] { CallEnds(); });
        worker.watch->StartCall();
      }
      ask_info = worker.serving && !worker.ready && !worker.asking_info && due(worker.next_info);
      ask_load = worker.ready && !worker.asking_load && due(worker.next_load);
      worker.asking_info |= ask_info;
      worker.asking_load |= ask_load;
    }
    if (ask_info) AskInfo(i);
    if (ask_load) AskLoad(i);
  }
  return next;
}

void WorkerPoolImpl::Run() {
  while (true) {
    const SteadyTime next = StartDueCalls();
    MutexLock lock(&mu_);
    if (closing_) return;
    const auto left = next - std::chrono::steady_clock::now();
    if (!wake_ && left > std::chrono::nanoseconds::zero()) changed_.WaitFor(&mu_, left);
    wake_ = false;
  }
}

std::vector<WorkerSnapshot> WorkerPoolImpl::Snapshot() const {
  MutexLock lock(&mu_);
  std::vector<WorkerSnapshot> all;
  for (const auto& w : workers_) all.push_back({w->name, w->address, w->ready, w->relayed->load(), w->info, w->load});
  return all;
}

std::vector<WorkerView> WorkerPoolImpl::Views() const {
  MutexLock lock(&mu_);
  std::vector<WorkerView> all;
  for (const auto& w : workers_) {
    all.push_back({.ready = w->ready,
                   .relayed = w->relayed->load(),
                   .reported = w->load.running() + w->load.waiting(),
                   .held_pages = w->load.held_pages(),
                   .total_pages = w->load.total_pages()});
  }
  return all;
}

std::string WorkerPoolImpl::WorkerName(size_t worker) const {
  MutexLock lock(&mu_);
  return workers_[worker]->name;
}

const CacheMirror& WorkerPoolImpl::Cache(size_t worker) const {
  CHECK_LT(worker, workers_.size());
  return workers_[worker]->cache;
}

uint32_t WorkerPoolImpl::ContextTokens() const {
  MutexLock lock(&mu_);
  std::optional<uint32_t> context;
  for (const auto& w : workers_) {
    if (!w->ready) continue;
    const uint32_t max_model_len = w->info.worker().max_model_len();
    const uint32_t own = max_model_len > 0 ? max_model_len : w->info.model().context_tokens();
    context = std::min(context.value_or(own), own);
  }
  return context.value_or(0);
}

std::shared_ptr<WorkerStream> WorkerPoolImpl::OpenGenerate(size_t index, worker::v1::GenerateRequest request,
                                                           absl::Time deadline,
                                                           std::shared_ptr<WorkerStreamHandler> handler) {
  CHECK_LT(index, workers_.size());
  CallBegins();
  return MakeWorkerStream(workers_[index]->stub.get(), std::move(request), deadline, std::move(handler),
                          workers_[index]->relayed, [this] { CallEnds(); });
}

void WorkerPoolImpl::FlushCaches(std::function<void(absl::Status, uint32_t)> done) {
  struct Join {
    Mutex mu;
    size_t left ABSL_GUARDED_BY(mu) = 0;
    uint32_t freed ABSL_GUARDED_BY(mu) = 0;
    absl::Status status ABSL_GUARDED_BY(mu);
  };
  std::vector<size_t> ready;
  {
    MutexLock lock(&mu_);
    for (size_t i = 0; i < workers_.size(); ++i) {
      if (workers_[i]->ready) ready.push_back(i);
    }
  }
  if (ready.empty()) return done(absl::UnavailableError("no worker is ready"), 0);
  auto join = std::make_shared<Join>();
  {
    MutexLock lock(&join->mu);
    join->left = ready.size();
  }
  for (const size_t i : ready) {
    Ask<worker::v1::FlushCacheRequest, worker::v1::FlushCacheResponse>(
        [stub = workers_[i]->stub.get()](auto... args) { stub->async()->FlushCache(std::move(args)...); },
        [join, done](const absl::Status& status, const worker::v1::FlushCacheResponse& response) {
          absl::Status first_error;
          uint32_t freed = 0;
          {
            MutexLock lock(&join->mu);
            join->freed += response.freed_pages();
            join->status.Update(status);
            if (--join->left > 0) return;
            first_error = join->status;
            freed = join->freed;
          }
          done(first_error, freed);
        });
  }
}

}  // namespace

std::unique_ptr<WorkerPool> WorkerPool::Create(const Options& options) {
  return std::make_unique<WorkerPoolImpl>(options);
}

}  // namespace dunlin::gateway
