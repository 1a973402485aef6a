#include "worker/worker_process.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/process.h"
#include "base/status_macros.h"
#include "model/hugging_face/open_model.h"
#include "model/model_config.h"
#include "model/tokenizer/tokenizer.h"
#include "nlohmann/json.hpp"
#include "worker/kv_formats.h"
#include "worker/runners/backend.h"
#include "worker/service/settings.h"

namespace dunlin::worker {
namespace {

// Events kept for a gateway between two of its looks: a second's worth many times over.
constexpr size_t kMaxCacheEvents = size_t{1} << 16;

// Hears the engine for the metrics and the log of the cache.
class Observers final : public EngineObserver {
 public:
  Observers(WorkerMetrics* metrics, CacheEventLog* cache_events, std::function<void()> device_lost)
      : metrics_(metrics), cache_events_(cache_events), device_lost_(std::move(device_lost)) {}
  void OnStep(int prefill_rows, int decode_rows, const StepResult& result, absl::Duration wall) override {
    metrics_->OnStep(prefill_rows, decode_rows, result, wall);
  }
  void OnScheduled(absl::Duration queue_time) override { metrics_->OnScheduled(queue_time); }
  void OnFirstToken(absl::Duration ttft) override { metrics_->OnFirstToken(ttft); }
  void OnInterTokenLatency(absl::Duration itl) override { metrics_->OnInterTokenLatency(itl); }
  void OnCancelToFree(absl::Duration cancel_to_free) override { metrics_->OnCancelToFree(cancel_to_free); }
  void OnCacheEvents(std::span<const uint64_t> added, std::span<const uint64_t> removed) override {
    cache_events_->Append(added, removed);
  }
  void OnDeviceLost() override {
    if (device_lost_) device_lost_();
  }

 private:
  WorkerMetrics* const metrics_;
  CacheEventLog* const cache_events_;
  const std::function<void()> device_lost_;
};

v1::GetInfoResponse MakeInfo(const dunlin::v1::ServerConfig& config, const LoadedModel& loaded) {
  const RunnerInfo& runner = loaded.runner->info();
  v1::GetInfoResponse info;
  info.set_served_model_name(loaded.model.name());
  *info.mutable_model() = loaded.model;
  dunlin::v1::WorkerInfo* worker = info.mutable_worker();
  worker->set_device(runner.device);
  worker->set_isa(runner.isa);
  worker->set_page_size_tokens(static_cast<uint32_t>(runner.page_tokens));
  worker->set_total_pages(static_cast<uint32_t>(runner.num_pages));
  worker->set_max_num_seqs(config.max_num_seqs());
  worker->set_max_num_batched_tokens(config.max_num_batched_tokens());
  worker->set_max_model_len(static_cast<uint32_t>(runner.max_model_len));
  worker->set_threads(static_cast<uint32_t>(runner.threads));
  return info;
}

WorkerMetrics::Options MakeMetricsOptions(const dunlin::v1::ServerConfig& config, const LoadedModel& loaded) {
  WorkerMetrics::Options options;
  options.version = DUNLIN_VERSION;
  options.commit = DUNLIN_COMMIT;
  options.model = loaded.model.name();
  options.quantization = loaded.model.quantization();
  options.kv_cache_dtype = loaded.model.kv_cache_dtype();
  options.memory_utilization = config.gpu_memory_utilization();
  options.prefix_caching = config.enable_prefix_caching();
  options.runner = loaded.runner->info();
  const bool v6 = absl::StrContains(config.host(), ':') && !absl::StartsWith(config.host(), "[");
  options.bind_address = absl::StrCat(v6 ? "[" : "", config.host(), v6 ? "]:" : ":", config.worker_metrics_port());
  return options;
}

std::string DescribeDevice(const LoadedModel& loaded) {
  const std::string& device = loaded.runner->info().device;
  return loaded.why_cpu.empty() ? device : absl::StrCat(device, " (auto: ", loaded.why_cpu, ")");
}
std::string DescribeThreads(const RunnerInfo& runner) {
  if (runner.threads == 0) return "";  // the work is not the host's
  return absl::StrFormat(", threads %d (%d to decode)", runner.threads,
                         runner.decode_threads > 0 ? runner.decode_threads : runner.threads);
}

}  // namespace

std::string ServedModelName(const dunlin::v1::ServerConfig& config) {
  return config.served_model_name().empty() ? model::ModelName(config.model()) : config.served_model_name();
}

absl::StatusOr<LoadedModel> LoadModel(const dunlin::v1::ServerConfig& config, const ProgressCallback& progress) {
  ASSIGN_OR_RETURN(RunnerOptions options, MakeRunnerOptions(config));
  options.progress = progress;
  options.say = [](const std::string& line) { std::fprintf(stderr, "dunlin-worker: %s\n", line.c_str()); };
  ASSIGN_OR_RETURN(const KvFormats kv, ParseKvFormats(config.kv_cache_dtype()));
  ASSIGN_OR_RETURN(DeviceChoice device, ChooseDevice(config.device()));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelFile> file, model::OpenModel(config.model()));
  ASSIGN_OR_RETURN(const model::ModelConfig shape, model::ParseModelConfig(file->gguf()));
  // The vocabulary first: a file that cannot be served is refused before its weights are packed.
  LoadedModel loaded;
  loaded.why_cpu = device.why_cpu;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<const model::Tokenizer> tokenizer, model::Tokenizer::Create(file->gguf()));
    loaded.end_of_generation = tokenizer->end_of_generation();
  }
  // What the runner sets aside without using it would else lie in the vocabulary's memory, which is resident.
  ReturnFreedMemory();
  ASSIGN_OR_RETURN(loaded.runner, CreateRunnerOn(std::move(device), *file, options));
  loaded.model.set_name(ServedModelName(config));
  loaded.model.set_architecture(shape.architecture);
  loaded.model.set_quantization(shape.quantization);
  loaded.model.set_kv_cache_dtype(kv.name);
  loaded.model.set_context_tokens(static_cast<uint32_t>(loaded.runner->info().max_model_len));
  loaded.model.set_vocab_size(static_cast<uint32_t>(loaded.runner->info().vocab_size));
  loaded.model.set_ready_workers(1);
  return loaded;
}

absl::StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(const dunlin::v1::ServerConfig& config,
                                                                    const StartOptions& options) {
  const Clock* const clock = Clock::Real();
  const absl::Time begun = clock->Now();
  std::unique_ptr<WorkerProcess> process(new WorkerProcess);
  // Listening comes first: a taken address is told before seconds of loading, and probes see NOT_SERVING meanwhile.
  ASSIGN_OR_RETURN(process->server_, WorkerServer::Start(config.listen(), config.worker_id()));
  ASSIGN_OR_RETURN(process->loaded_, options.load(config, options.progress));
  ReturnFreedMemory();  // the file's tables are gone
  const RunnerInfo& runner = process->loaded_.runner->info();
  WorkerMetrics::Options metrics_options = MakeMetricsOptions(config, process->loaded_);
  if (!options.serve_metrics) metrics_options.bind_address.clear();
  ASSIGN_OR_RETURN(process->metrics_, WorkerMetrics::Create(metrics_options, clock));

  EngineOptions engine_options = MakeEngineOptions(config);
  engine_options.end_of_generation = process->loaded_.end_of_generation;
  process->cache_events_ =
      std::make_unique<CacheEventLog>(kMaxCacheEvents, static_cast<size_t>(std::max(runner.num_pages, 0)));
  process->observer_ =
      std::make_unique<Observers>(process->metrics_.get(), process->cache_events_.get(), options.device_lost);
  ASSIGN_OR_RETURN(process->engine_,
                   Engine::Create(engine_options, process->loaded_.runner.get(), clock, process->observer_.get()));
  Engine* const engine = process->engine_.get();
  WorkerMetrics* const metrics = process->metrics_.get();
  metrics->SetSnapshot([engine] { return engine->Snapshot(); });

  ServingEngine serving;
  serving.engine = engine;
  serving.clock = clock;
  serving.cache_events = process->cache_events_.get();
  serving.runner = runner;
  serving.info = MakeInfo(config, process->loaded_);
  serving.bandwidth_bytes_per_second = [metrics] { return metrics->bandwidth_bytes_per_second(); };
  process->server_->SetReady(std::move(serving));

  const LoadedModel& loaded = process->loaded_;
  process->summary_ = absl::StrFormat(
      "worker %s ready: model %s (%s), device %s, isa %s%s, %d pages of %d tokens (%s), loaded in %.1f s, grpc %s, "
      "metrics %s",
      config.worker_id(), loaded.model.name(), loaded.model.quantization(), DescribeDevice(loaded), runner.isa,
      DescribeThreads(runner), runner.num_pages, runner.page_tokens, loaded.model.kv_cache_dtype(),
      absl::ToDoubleSeconds(clock->Now() - begun), process->grpc_address(), process->metrics_address());
  return process;
}

WorkerProcess::~WorkerProcess() {
  if (metrics_ != nullptr) metrics_->SetSnapshot(nullptr);
  // The calls first: each uses the engine until it is done.
  if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  server_.reset();
  engine_.reset();
}

std::string WorkerProcess::AddressesJson() const {
  return nlohmann::json{{"grpc", grpc_address()}, {"metrics", metrics_address()}}.dump() + "\n";
}

void WorkerProcess::BeginDrain() {
  server_->SetNotServing();
  engine_->StopAdmission();
}

}  // namespace dunlin::worker
