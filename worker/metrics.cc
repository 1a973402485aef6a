#include "worker/metrics.h"

#include <prometheus/client_metric.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <array>
#include <exception>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "worker/bandwidth_meter.h"

namespace dunlin::worker {
namespace {

using prometheus::ClientMetric;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

const Histogram::BucketBoundaries kStepSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5};
const Histogram::BucketBoundaries kStepTokens = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
const Histogram::BucketBoundaries kWaitSeconds = {0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
// vLLM's own boundaries, so that its dashboards read alike.
const Histogram::BucketBoundaries kTtftSeconds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                                  1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
const Histogram::BucketBoundaries kItlSeconds = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                                 0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};

// Builds one family after another.
class Page {
 public:
  Page& Family(const char* name, const char* help, MetricType type) {
    MetricFamily& family = families_.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
    return *this;
  }
  Page& Gauge(const char* name, const char* help, double value, Labels labels = {}) {
    return Family(name, help, MetricType::Gauge).Add(value, std::move(labels));
  }
  Page& Counter(const char* name, const char* help, double value, Labels labels = {}) {
    return Family(name, help, MetricType::Counter).Add(value, std::move(labels));
  }
  Page& Distribution(const char* name, const char* help, const Histogram& histogram, Labels labels = {}) {
    return Family(name, help, MetricType::Histogram).Add(histogram, std::move(labels));
  }
  // One more series of the last family.
  Page& Add(double value, Labels labels) {
    MetricFamily& family = families_.back();
    ClientMetric& metric = family.metric.emplace_back();
    metric.label = std::move(labels);
    (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    return *this;
  }
  Page& Add(const Histogram& histogram, Labels labels) {
    ClientMetric metric = histogram.Collect();
    metric.label = std::move(labels);
    families_.back().metric.push_back(std::move(metric));
    return *this;
  }
  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  std::vector<MetricFamily> families_;
};

double Count(uint64_t value) { return static_cast<double>(value); }

// Everything but the listener; the listener knows it weakly.
class Exporter final : public prometheus::Collectable {
 public:
  Exporter(const WorkerMetrics::Options& options, const Clock* clock) : options_(options), clock_(clock) {}

  void SetSnapshot(std::function<EngineStats()> snapshot) ABSL_LOCKS_EXCLUDED(snapshot_mu_) {
    MutexLock lock(&snapshot_mu_);
    snapshot_ = std::move(snapshot);
  }

  void OnStep(int prefill_rows, int decode_rows, const StepResult& result, absl::Duration wall)
      ABSL_LOCKS_EXCLUDED(mu_) {
    const int rows = prefill_rows + decode_rows;
    if (rows <= 0) return;
    step_tokens_.Observe(rows);
    Histogram& seconds = decode_rows == 0 ? prefill_seconds_ : prefill_rows == 0 ? decode_seconds_ : mixed_seconds_;
    seconds.Observe(absl::ToDoubleSeconds(wall));
    MutexLock lock(&mu_);
    meter_.Add(prefill_rows, decode_rows, result.traffic, result.device_time, clock_->Now());
    ++graph_steps_[static_cast<size_t>(result.graph)];
  }

  std::vector<MetricFamily> Collect() const override {
    EngineStats stats;
    {
      // Held during the call, so that detaching waits for it.
      MutexLock lock(&snapshot_mu_);
      if (snapshot_) {
        stats = snapshot_();
      } else {
        stats.total_pages = stats.blank_pages = options_.runner.num_pages;
      }
    }
    Page page;
    AddRequests(stats, &page);
    AddKv(stats, &page);
    AddHostTier(stats, &page);
    AddBandwidth(&page);
    AddGraphs(&page);
    AddInfo(&page);
    AddAliases(stats, &page);
    return page.Take();
  }

  double Bandwidth() const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(&mu_);
    return meter_.BytesPerSecond(clock_->Now());
  }

  Histogram queue_seconds{kWaitSeconds};
  Histogram cancel_seconds{kWaitSeconds};
  Histogram ttft_seconds{kTtftSeconds};
  Histogram itl_seconds{kItlSeconds};

 private:
  void AddRequests(const EngineStats& stats, Page* page) const {
    page->Gauge("dunlin_num_requests_running", "Sequences that take part in steps.", stats.running)
        .Gauge("dunlin_num_requests_waiting", "Sequences that wait for pages or a place in a step.", stats.waiting)
        .Gauge("dunlin_num_requests_preempted", "Of the waiting sequences, those that ran before.",
               stats.waiting_preempted)
        .Counter("dunlin_scheduler_plans_total", "Steps that the scheduler planned; the others went on with a plan.",
                 Count(stats.plans))
        .Counter("dunlin_preemptions_total", "Sequences that lost their pages and start over.",
                 Count(stats.preemptions))
        .Counter("dunlin_recompute_tokens_total", "Tokens computed again after a preemption.",
                 Count(stats.recomputed_tokens))
        .Counter("dunlin_spec_decode_drafts_total", "Drafts that were verified, each in one step.", Count(stats.drafts))
        .Counter("dunlin_spec_decode_draft_tokens_total", "Tokens of these drafts.", Count(stats.draft_tokens))
        .Counter("dunlin_spec_decode_accepted_tokens_total", "Of them, those that were drawn.",
                 Count(stats.accepted_draft_tokens))
        .Gauge("dunlin_vtc_spread_tokens", "Largest difference of service between two tenants that wait.",
               stats.vtc_spread_tokens)
        .Gauge("dunlin_step_time_predicted_seconds", "What the step-time model expected of the last step.",
               stats.predicted_step_seconds)
        .Distribution("dunlin_step_seconds", "Duration of one step by what it computed.", prefill_seconds_,
                      {{"phase", "prefill"}})
        .Add(decode_seconds_, {{"phase", "decode"}})
        .Add(mixed_seconds_, {{"phase", "mixed"}})
        .Distribution("dunlin_step_tokens", "Rows of one step, prefill and decode.", step_tokens_)
        .Distribution("dunlin_queue_time_seconds", "From a request's arrival to its first step.", queue_seconds)
        .Distribution("dunlin_cancel_to_free_seconds", "From a cancellation to its pages being free.", cancel_seconds);
  }

  void AddKv(const EngineStats& s, Page* page) const {
    const std::vector<std::pair<const char*, int32_t>> states = {{"blank", s.blank_pages},
                                                                 {"held", s.held_pages},
                                                                 {"cached", s.cached_pages},
                                                                 {"quarantine", s.quarantine_pages}};
    page->Family("dunlin_kv_pages", "KV pages by state.", MetricType::Gauge);
    for (const auto& [state, pages] : states) page->Add(pages, {{"state", state}});
    page->Gauge("dunlin_kv_cache_usage_ratio", "Share of the KV pages that sequences hold.", Usage(s));
    page->Family("dunlin_kv_cache_bytes", "Bytes of the KV pages by state.", MetricType::Gauge);
    for (const auto& [state, pages] : states) {
      page->Add(static_cast<double>(pages) * Count(options_.runner.page_bytes), {{"state", state}});
    }
    page->Gauge("dunlin_kv_page_size_tokens", "Tokens of one KV page.", options_.runner.page_tokens)
        .Counter("dunlin_kv_evictions_total", "Cached pages given up for new tokens.", Count(s.evictions))
        .Counter("dunlin_kv_saturated_values_total", "K and V values that the page format could not hold.",
                 Count(s.kv_saturated_values))
        .Counter("dunlin_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
                 Count(s.prefix_query_tokens))
        .Counter("dunlin_prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
                 Count(s.prefix_hit_tokens));
    page->Gauge("dunlin_kv_reserved_pages", "KV pages promised to running sequences and not yet taken.",
                s.reserved_pages)
        .Gauge("dunlin_kv_pinned_pages", "KV pages in use by a transfer.", s.pinned_pages)
        .Counter("dunlin_kv_dedup_pages_total", "KV pages computed twice and kept once.", Count(s.dedup_pages))
        .Counter("dunlin_kv_cow_copies_total", "KV pages copied because only a part could be shared.",
                 Count(s.copied_pages))
        .Counter("dunlin_invariant_failures_total", "Checks of the page bookkeeping that failed; stays 0.",
                 Count(s.invariant_failures));
  }

  static void AddHostTier(const EngineStats& s, Page* page) {
    page->Gauge("dunlin_kv_host_tier_pages", "KV pages kept in the host tier.", s.host_tier_pages)
        .Gauge("dunlin_kv_host_tier_capacity_pages", "KV pages that the host tier has room for; 0 = no host tier.",
               s.host_tier_slots)
        .Counter("dunlin_kv_host_tier_bytes_total", "Bytes moved between device and host tier.",
                 Count(s.host_tier_bytes_out), {{"direction", "out"}})
        .Add(Count(s.host_tier_bytes_in), {{"direction", "in"}})
        .Counter("dunlin_kv_host_tier_hits_total", "Prompt tokens found in the host tier.",
                 Count(s.host_tier_hit_tokens))
        .Counter("dunlin_kv_host_tier_failures_total", "Records of the host tier that came back damaged.",
                 Count(s.host_tier_failures));
  }

  void AddBandwidth(Page* page) const ABSL_LOCKS_EXCLUDED(mu_) {
    const std::vector<std::pair<const char*, Phase>> phases = {{"prefill", Phase::kPrefill},
                                                               {"decode", Phase::kDecode}};
    const double peak = options_.runner.peak_bandwidth_bytes_per_second;
    MutexLock lock(&mu_);
    const absl::Time now = clock_->Now();
    page->Family("dunlin_memory_bytes_total", "Bytes that steps moved to and from memory.", MetricType::Counter);
    for (const auto& [name, phase] : phases) {
      const kernels::Traffic& t = meter_.total(phase);
      page->Add(Count(t.weight_bytes), {{"kind", "weights"}, {"phase", name}})
          .Add(Count(t.kv_read_bytes), {{"kind", "kv_read"}, {"phase", name}})
          .Add(Count(t.kv_write_bytes), {{"kind", "kv_write"}, {"phase", name}})
          .Add(Count(t.activation_bytes), {{"kind", "activations"}, {"phase", name}});
    }
    page->Family("dunlin_memory_bandwidth_bytes_per_second", "Bytes moved per second of device time, lately.",
                 MetricType::Gauge);
    for (const auto& [name, phase] : phases) page->Add(meter_.BytesPerSecond(phase, now), {{"phase", name}});
    page->Gauge("dunlin_memory_bandwidth_peak_bytes_per_second", "Read bandwidth measured at start; 0 = not measured.",
                peak);
    page->Family("dunlin_memory_bandwidth_utilization_ratio", "Bandwidth as a share of the measured peak.",
                 MetricType::Gauge);
    for (const auto& [name, phase] : phases) {
      page->Add(peak > 0 ? meter_.BytesPerSecond(phase, now) / peak : 0, {{"phase", name}});
    }
  }

  void AddGraphs(Page* page) const ABSL_LOCKS_EXCLUDED(mu_) {
    const std::vector<std::pair<const char*, GraphUse>> outcomes = {
        {"eager", GraphUse::kEager}, {"recorded", GraphUse::kRecorded}, {"replayed", GraphUse::kReplayed}};
    MutexLock lock(&mu_);
    page->Family("dunlin_device_graph_steps_total",
                 "Steps of a device that records them, by how they were launched; the CPU has none.",
                 MetricType::Counter);
    for (const auto& [name, use] : outcomes) {
      page->Add(Count(graph_steps_[static_cast<size_t>(use)]), {{"outcome", name}});
    }
  }

  void AddInfo(Page* page) const {
    page->Gauge("dunlin_build_info", "What runs here; always 1.", 1,
                {{"version", options_.version},
                 {"commit", options_.commit},
                 {"device", options_.runner.device},
                 {"isa", options_.runner.isa}})
        .Gauge("dunlin_model_info", "The model served; always 1.", 1,
               {{"model", options_.model},
                {"quantization", options_.quantization},
                {"kv_cache_dtype", options_.kv_cache_dtype}})
        .Gauge("dunlin_kv_cache_info", "The KV cache's configuration; always 1.", 1,
               {{"page_size_tokens", absl::StrCat(options_.runner.page_tokens)},
                {"pages", absl::StrCat(options_.runner.num_pages)},
                {"kv_cache_dtype", options_.kv_cache_dtype},
                {"prefix_caching", options_.prefix_caching ? "true" : "false"},
                {"host_tier_pages", absl::StrCat(options_.runner.host_slots)},
                {"memory_utilization", absl::StrCat(options_.memory_utilization)}});
  }

  void AddAliases(const EngineStats& s, Page* page) const {
    const Labels model = {{"model_name", options_.model}};
    Labels cache = model;
    cache.push_back({"block_size", absl::StrCat(options_.runner.page_tokens)});
    cache.push_back({"cache_dtype", options_.kv_cache_dtype});
    cache.push_back({"enable_prefix_caching", options_.prefix_caching ? "True" : "False"});
    cache.push_back({"gpu_memory_utilization", absl::StrCat(options_.memory_utilization)});
    cache.push_back({"num_cpu_blocks", absl::StrCat(options_.runner.host_slots)});
    cache.push_back({"num_gpu_blocks", absl::StrCat(options_.runner.num_pages)});
    page->Gauge("vllm:num_requests_running", "As dunlin_num_requests_running.", s.running, model)
        .Gauge("vllm:num_requests_waiting", "As dunlin_num_requests_waiting.", s.waiting, model)
        .Gauge("vllm:kv_cache_usage_perc", "As dunlin_kv_cache_usage_ratio; 1 = full.", Usage(s), model)
        .Counter("vllm:prefix_cache_queries_total", "As dunlin_prefix_cache_queries_total.",
                 Count(s.prefix_query_tokens), model)
        .Counter("vllm:prefix_cache_hits_total", "As dunlin_prefix_cache_hits_total.", Count(s.prefix_hit_tokens),
                 model)
        .Counter("vllm:generation_tokens_total", "Tokens sampled.", Count(s.generated_tokens), model)
        .Counter("vllm:prompt_tokens_total", "Prompt tokens processed.", Count(s.prompt_tokens), model)
        .Counter("vllm:spec_decode_num_drafts_total", "As dunlin_spec_decode_drafts_total.", Count(s.drafts), model)
        .Counter("vllm:spec_decode_num_draft_tokens_total", "As dunlin_spec_decode_draft_tokens_total.",
                 Count(s.draft_tokens), model)
        .Counter("vllm:spec_decode_num_accepted_tokens_total", "As dunlin_spec_decode_accepted_tokens_total.",
                 Count(s.accepted_draft_tokens), model)
        .Distribution("vllm:time_to_first_token_seconds", "From a request's arrival to its first token.", ttft_seconds,
                      model)
        .Distribution("vllm:inter_token_latency_seconds", "Between two tokens of a sequence.", itl_seconds, model)
        .Gauge("vllm:cache_config_info", "The KV cache's configuration; always 1.", 1, cache);
  }

  static double Usage(const EngineStats& s) {
    return s.total_pages > 0 ? static_cast<double>(s.held_pages + s.quarantine_pages) / s.total_pages : 0;
  }

  const WorkerMetrics::Options options_;
  const Clock* const clock_;
  Histogram prefill_seconds_{kStepSeconds};
  Histogram decode_seconds_{kStepSeconds};
  Histogram mixed_seconds_{kStepSeconds};
  Histogram step_tokens_{kStepTokens};
  mutable Mutex mu_;
  BandwidthMeter meter_ ABSL_GUARDED_BY(mu_);
  std::array<uint64_t, kNumGraphUses> graph_steps_ ABSL_GUARDED_BY(mu_) = {};  // by GraphUse
  mutable Mutex snapshot_mu_;
  std::function<EngineStats()> snapshot_ ABSL_GUARDED_BY(snapshot_mu_);
};

}  // namespace

class WorkerMetrics::Impl {
 public:
  std::shared_ptr<Exporter> exporter;
  std::string address;
  std::unique_ptr<prometheus::Exposer> listener;  // stops first
};

absl::StatusOr<std::unique_ptr<WorkerMetrics>> WorkerMetrics::Create(const Options& options, const Clock* clock) {
  auto impl = std::make_unique<Impl>();
  impl->exporter = std::make_shared<Exporter>(options, clock);
  if (!options.bind_address.empty()) {
    // The library's only way to say that an address is taken is an exception.
    try {
      impl->listener = std::make_unique<prometheus::Exposer>(options.bind_address, 1);
    } catch (const std::exception& e) {
      return absl::UnavailableError(absl::StrCat("metrics cannot listen on ", options.bind_address, ": ", e.what()));
    }
    const std::vector<int> ports = impl->listener->GetListeningPorts();
    if (ports.empty()) return absl::UnavailableError(absl::StrCat("metrics have no port on ", options.bind_address));
    impl->address = absl::StrCat(options.bind_address.substr(0, options.bind_address.rfind(':') + 1), ports.front());
    impl->listener->RegisterCollectable(impl->exporter);
  }
  return std::unique_ptr<WorkerMetrics>(new WorkerMetrics(std::move(impl)));
}

WorkerMetrics::WorkerMetrics(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerMetrics::~WorkerMetrics() = default;

void WorkerMetrics::SetSnapshot(std::function<EngineStats()> snapshot) {
  impl_->exporter->SetSnapshot(std::move(snapshot));
}

void WorkerMetrics::OnStep(int prefill_rows, int decode_rows, const StepResult& result, absl::Duration wall) {
  impl_->exporter->OnStep(prefill_rows, decode_rows, result, wall);
}
void WorkerMetrics::OnScheduled(absl::Duration queue_time) {
  impl_->exporter->queue_seconds.Observe(absl::ToDoubleSeconds(queue_time));
}
void WorkerMetrics::OnFirstToken(absl::Duration ttft) {
  impl_->exporter->ttft_seconds.Observe(absl::ToDoubleSeconds(ttft));
}
void WorkerMetrics::OnInterTokenLatency(absl::Duration itl) {
  impl_->exporter->itl_seconds.Observe(absl::ToDoubleSeconds(itl));
}
void WorkerMetrics::OnCancelToFree(absl::Duration cancel_to_free) {
  impl_->exporter->cancel_seconds.Observe(absl::ToDoubleSeconds(cancel_to_free));
}

double WorkerMetrics::bandwidth_bytes_per_second() const { return impl_->exporter->Bandwidth(); }
const std::string& WorkerMetrics::address() const { return impl_->address; }
std::string WorkerMetrics::Text() const { return prometheus::TextSerializer().Serialize(impl_->exporter->Collect()); }

}  // namespace dunlin::worker
