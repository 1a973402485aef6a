#include "gateway/gateway.h"

#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/mutex.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "gateway/admission_gate.h"
#include "gateway/control_service.h"
#include "gateway/health_service.h"
#include "gateway/inference_service.h"
#include "gateway/listener.h"
#include "gateway/metrics.h"
#include "gateway/model_info.h"
#include "gateway/relay_stream.h"
#include "gateway/tenants.h"
#include "gateway/text/prompt_builder.h"
#include "gateway/work_pool.h"
#include "gateway/worker_pool.h"
#include "grpcpp/server.h"

namespace dunlin::gateway {
namespace {

constexpr int kWorkThreads = 2;
constexpr size_t kWorkCapacity = 1024;
constexpr absl::Duration kInterruptGrace = absl::Seconds(1);  // for the last messages of interrupted streams
constexpr absl::string_view kInferenceServiceName = "dunlin.v1.InferenceService";

// Well-mixed 64-bit numbers from any thread; not secret.
class RandomNumbers {
 public:
  RandomNumbers() {
    std::random_device device;
    base_ = (uint64_t{device()} << 32) | device();
  }
  uint64_t Next() {
    // SplitMix64 (Steele, Lea, Flood 2014): a bijection of a counter, so no number repeats.
    uint64_t z = base_ + next_.fetch_add(1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

 private:
  uint64_t base_ = 0;
  std::atomic<uint64_t> next_{0};
};

}  // namespace

struct Gateway::Impl {
  explicit Impl(const GatewayOptions& o) : options(o), gate(o.limits, o.clock) {}
  ~Impl() { Shutdown(); }

  absl::Status Start();
  void SetServices();
  void StartDrain(absl::Duration deadline) ABSL_LOCKS_EXCLUDED(mu);
  void Undrain() ABSL_LOCKS_EXCLUDED(mu);
  void InterruptAll();
  void RunDrainTimer() ABSL_LOCKS_EXCLUDED(mu);
  void UpdateHealth() ABSL_LOCKS_EXCLUDED(health_mu);
  void Shutdown();

  const GatewayOptions options;
  RandomNumbers random;
  std::unique_ptr<const ModelInfo> model;
  std::unique_ptr<PromptBuilder> prompts;
  Tenants tenants;
  std::unique_ptr<GatewayMetrics> metrics;
  AdmissionGate gate;
  ActiveCalls<RelayStream> calls;
  std::atomic<bool> draining{false};
  std::unique_ptr<WorkPool> work;
  std::unique_ptr<WorkerPool> workers;
  std::atomic<WorkerPool*> workers_for_health{nullptr};  // set once the pool is whole, cleared before it goes
  RelayServices services;
  ControlHooks hooks;
  HealthService public_health;
  HealthService admin_health;
  std::unique_ptr<InferenceServiceImpl> inference;
  std::unique_ptr<ControlServiceImpl> control;
  Listener public_listener;
  Listener admin_listener;

  Mutex health_mu;
  std::vector<std::string> worker_names ABSL_GUARDED_BY(health_mu);

  Mutex mu;
  CondVar changed;
  std::optional<std::chrono::steady_clock::time_point> interrupt_at ABSL_GUARDED_BY(mu);
  bool closing ABSL_GUARDED_BY(mu) = false;
  std::thread drain_timer;
};

void Gateway::Impl::SetServices() {
  services.model = model->name;
  services.sampling_defaults = model->sampling_defaults;
  services.new_request_id = [this] { return absl::StrFormat("%016x%016x", random.Next(), random.Next()); };
  services.new_seed = [this] { return options.seed.has_value() ? *options.seed : random.Next(); };
  services.tokenizer = model->tokenizer.get();
  services.prompts = prompts.get();
  services.clock = options.clock;
  services.tenants = &tenants;
  services.gate = &gate;
  services.work = work.get();
  services.workers = workers.get();
  services.metrics = metrics.get();
  services.calls = &calls;
  services.draining = &draining;
  hooks.version = options.version;
  hooks.commit = options.commit;
  hooks.config = options.config;
  hooks.start = options.clock->Now();
  hooks.drain = [this](absl::Duration deadline) { StartDrain(deadline); };
  hooks.undrain = [this] { Undrain(); };
}

absl::Status Gateway::Impl::Start() {
  ASSIGN_OR_RETURN(tenants, Tenants::Create(options.api_keys, options.trust_tenant_header));
  ASSIGN_OR_RETURN(model, ModelInfo::Load(options.model_path, options.served_model_name, options.chat_template_path));
  ReturnFreedMemory();  // the file's tables are gone
  prompts = std::make_unique<PromptBuilder>(model->tokenizer.get(), model->chat_template.get());
  const std::string metrics_address =
      options.metrics_port.has_value() ? JoinHostPort(options.host, *options.metrics_port) : std::string();
  ASSIGN_OR_RETURN(metrics, GatewayMetrics::Create({.model = model->name,
                                                    .version = options.version,
                                                    .commit = options.commit,
                                                    .bind_address = metrics_address}));
  for (const absl::string_view name : {absl::string_view(), kInferenceServiceName, absl::string_view(model->name)}) {
    public_health.Set(name, false);
    admin_health.Set(name, false);
  }
  work = std::make_unique<WorkPool>(kWorkThreads, kWorkCapacity);
  workers = WorkerPool::Create({.addresses = options.worker_addresses,
                                .model = model->name,
                                .load_interval = options.worker_poll_interval,
                                .on_change = [this] { UpdateHealth(); }});
  SetServices();
  inference = std::make_unique<InferenceServiceImpl>(&services, model.get());
  control = std::make_unique<ControlServiceImpl>(&services, model.get(), &hooks);
  drain_timer = std::thread([this] { RunDrainTimer(); });
  workers_for_health = workers.get();
  UpdateHealth();
  const bool reflection = options.reflection.value_or(IsLoopback(options.host));
  ASSIGN_OR_RETURN(public_listener,
                   OpenListener(options.host, options.grpc_port, reflection, {inference.get(), &public_health}));
  ASSIGN_OR_RETURN(admin_listener,
                   OpenListener(options.host, options.admin_port, true, {control.get(), &admin_health}));
  return absl::OkStatus();
}

void Gateway::Impl::UpdateHealth() {
  // One at a time, so that an older picture never overwrites a newer one.
  MutexLock lock(&health_mu);
  WorkerPool* const pool = workers_for_health.load();
  if (pool == nullptr) return;
  const std::vector<WorkerSnapshot> snapshot = pool->Snapshot();
  worker_names.resize(snapshot.size());
  bool any_ready = false;
  for (size_t i = 0; i < snapshot.size(); ++i) {
    any_ready |= snapshot[i].ready;
    if (!worker_names[i].empty() && worker_names[i] != snapshot[i].name) metrics->RemoveWorker(worker_names[i]);
    worker_names[i] = snapshot[i].name;
  }
  for (const WorkerSnapshot& worker : snapshot) metrics->SetWorkerUp(worker.name, worker.ready);
  const bool serving = any_ready && !draining.load();
  for (const absl::string_view name : {absl::string_view(), kInferenceServiceName, absl::string_view(model->name)}) {
    public_health.Set(name, serving);
    admin_health.Set(name, serving);
  }
}

void Gateway::Impl::StartDrain(absl::Duration deadline) {
  draining = true;
  UpdateHealth();
  MutexLock lock(&mu);
  interrupt_at.reset();
  if (deadline != absl::InfiniteDuration()) {
    interrupt_at = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(deadline, absl::Hours(24)));
  }
  changed.SignalAll();
}

void Gateway::Impl::Undrain() {
  {
    MutexLock lock(&mu);
    interrupt_at.reset();
  }
  draining = false;
  UpdateHealth();
}

void Gateway::Impl::InterruptAll() {
  for (const std::shared_ptr<RelayStream>& call : calls.All()) {
    call->Interrupt("DRAINING", "the gateway's drain deadline passed");
  }
}

void Gateway::Impl::RunDrainTimer() {
  while (true) {
    {
      MutexLock lock(&mu);
      while (!closing) {
        if (!interrupt_at.has_value()) {
          changed.Wait(&mu);
          continue;
        }
        const auto left = *interrupt_at - std::chrono::steady_clock::now();
        if (left <= std::chrono::nanoseconds::zero()) break;
        changed.WaitFor(&mu, left);
      }
      if (closing) return;
      interrupt_at.reset();
    }
    InterruptAll();
  }
}

void Gateway::Impl::Shutdown() {
  draining = true;
  UpdateHealth();
  {
    MutexLock lock(&mu);
    closing = true;
    changed.SignalAll();
  }
  if (drain_timer.joinable()) drain_timer.join();
  public_health.Close();
  admin_health.Close();
  if (control != nullptr) control->Close();
  // Cancels what is open and waits for it; cancelled calls finish by themselves.
  for (Listener* listener : {&public_listener, &admin_listener}) {
    if (listener->server == nullptr) continue;
    listener->server->Shutdown(std::chrono::system_clock::now());
    listener->server->Wait();
    listener->server.reset();
  }
  {
    MutexLock lock(&health_mu);
    workers_for_health = nullptr;
  }
  work.reset();     // its last tasks still look at the workers
  workers.reset();  // waits for its open streams, whose calls use everything else
}

Gateway::Gateway(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Gateway::~Gateway() = default;

absl::StatusOr<std::unique_ptr<Gateway>> Gateway::Create(const GatewayOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Gateway>(new Gateway(std::move(impl)));
}

const std::string& Gateway::grpc_address() const { return impl_->public_listener.address; }
const std::string& Gateway::admin_address() const { return impl_->admin_listener.address; }
const std::string& Gateway::metrics_address() const { return impl_->metrics->address(); }
const std::string& Gateway::model_name() const { return impl_->model->name; }
std::string Gateway::MetricsText() const { return impl_->metrics->Text(); }

bool Gateway::Drain(absl::Duration deadline) {
  impl_->StartDrain(absl::InfiniteDuration());
  if (impl_->calls.WaitUntilDone(deadline)) return true;
  impl_->InterruptAll();
  impl_->calls.WaitUntilDone(kInterruptGrace);
  return false;
}

void Gateway::Undrain() { impl_->Undrain(); }
void Gateway::Shutdown() { impl_->Shutdown(); }

}  // namespace dunlin::gateway
