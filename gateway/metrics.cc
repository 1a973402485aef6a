#include "gateway/metrics.h"

#include <algorithm>
#include <exception>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "gateway/router.h"
#include "prometheus/counter.h"
#include "prometheus/exposer.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "proto/status_map.h"

namespace dunlin::gateway {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

const Buckets kLatencyBuckets = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const Buckets kTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5};
const Buckets kRequestBuckets = {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600};

constexpr absl::string_view kUnknownModel = "unknown";
constexpr absl::string_view kMigrationOutcomes[] = {"continued", "failed"};

// The one table of refusals: by ErrorInfo reason first, by code else.
struct ReasonRow {
  absl::string_view error_reason;
  absl::string_view label;
};
constexpr ReasonRow kByErrorReason[] = {
    {"QUEUE_FULL", "queue_full"},         {"DEADLINE_PREDICTED", "deadline"}, {"DRAINING", "draining"},
    {"NO_WORKER_READY", "no_worker"},     {"WORKER_LOST", "worker_lost"},     {"PROMPT_TOO_LONG", "prompt_too_long"},
    {"TOKENIZER_BUSY", "tokenizer_busy"}, {"NOT_BUILT", "not_built"},         {"UNAUTHENTICATED", "unauthenticated"},
};
struct CodeReasonRow {
  absl::StatusCode code;
  absl::string_view label;
};
constexpr CodeReasonRow kByCode[] = {
    {absl::StatusCode::kInvalidArgument, "invalid_argument"},   {absl::StatusCode::kNotFound, "unknown_model"},
    {absl::StatusCode::kAlreadyExists, "duplicate_request_id"}, {absl::StatusCode::kDeadlineExceeded, "deadline"},
    {absl::StatusCode::kResourceExhausted, "worker_full"},
};
constexpr absl::string_view kOtherReason = "other";

std::string Str(absl::string_view text) { return std::string(text); }

}  // namespace

absl::string_view RejectionReason(const absl::Status& status) {
  if (const auto info = GetErrorInfo(status); info.has_value()) {
    for (const ReasonRow& row : kByErrorReason) {
      if (row.error_reason == info->reason) return row.label;
    }
  }
  for (const CodeReasonRow& row : kByCode) {
    if (row.code == status.code()) return row.label;
  }
  return kOtherReason;
}

struct GatewayMetrics::Impl {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  std::unique_ptr<prometheus::Exposer> exposer;
  // Pre-created; the maps are constant after Create.
  std::map<std::pair<bool, absl::StatusCode>, prometheus::Counter*> requests;
  std::map<std::string, prometheus::Counter*> rejected;
  std::map<std::string, prometheus::Counter*> routed;
  prometheus::Gauge* active_streams = nullptr;
  prometheus::Gauge* queued_requests = nullptr;
  prometheus::Histogram* ttft = nullptr;
  prometheus::Histogram* itl = nullptr;
  prometheus::Histogram* e2e = nullptr;
  prometheus::Counter* prompt_tokens = nullptr;
  prometheus::Counter* generation_tokens = nullptr;
  prometheus::Counter* client_stall = nullptr;
  prometheus::Family<prometheus::Gauge>* worker_up = nullptr;
  Mutex mu;
  std::map<std::string, prometheus::Gauge*> workers ABSL_GUARDED_BY(mu);

  void Register(const Options& options);
  void RegisterRequests(const Options& options);
  prometheus::Counter* Counter(const char* name, const char* help) {
    return &prometheus::BuildCounter().Name(name).Help(help).Register(*registry).Add({});
  }
  prometheus::Gauge* Gauge(const char* name, const char* help) {
    return &prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add({});
  }
  prometheus::Histogram* Histogram(const char* name, const char* help, const Buckets& buckets) {
    return &prometheus::BuildHistogram().Name(name).Help(help).Register(*registry).Add({}, buckets);
  }
};

void GatewayMetrics::Impl::RegisterRequests(const Options& options) {
  auto& family = prometheus::BuildCounter()
                     .Name("dunlin_requests_total")
                     .Help("Generate calls that ended, by model and gRPC code.")
                     .Register(*registry);
  for (const bool known : {false, true}) {
    const std::string model = known ? options.model : Str(kUnknownModel);
    if (known && model == kUnknownModel) {  // the served model is really called that: one series for both
      for (int code = 0; code <= 16; ++code) {
        const auto status_code = static_cast<absl::StatusCode>(code);
        requests[{true, status_code}] = requests[{false, status_code}];
      }
      continue;
    }
    for (int code = 0; code <= 16; ++code) {
      const auto status_code = static_cast<absl::StatusCode>(code);
      requests[{known, status_code}] = &family.Add({{"model", model}, {"code", Str(CodeName(status_code))}});
    }
  }
}

void GatewayMetrics::Impl::Register(const Options& options) {
  RegisterRequests(options);
  auto& rejected_family = prometheus::BuildCounter()
                              .Name("dunlin_rejected_total")
                              .Help("Generate calls that ended before their first event, by reason.")
                              .Register(*registry);
  const auto add_reason = [&](absl::string_view reason) {
    const std::string label = Str(reason);
    if (rejected.count(label) == 0) rejected[label] = &rejected_family.Add({{"reason", label}});
  };
  for (const ReasonRow& row : kByErrorReason) add_reason(row.label);
  for (const CodeReasonRow& row : kByCode) add_reason(row.label);
  add_reason(kOtherReason);
  auto& routed_family = prometheus::BuildCounter()
                            .Name("dunlin_routing_decisions_total")
                            .Help("Choices of a worker, by what decided them.")
                            .Register(*registry);
  for (const absl::string_view reason : kRoutingReasons) {
    routed[Str(reason)] = &routed_family.Add({{"reason", Str(reason)}});
  }
  auto& migrations = prometheus::BuildCounter()
                         .Name("dunlin_migrations_total")
                         .Help("Streams moved to another worker, by outcome.")
                         .Register(*registry);
  for (const absl::string_view outcome : kMigrationOutcomes) migrations.Add({{"outcome", Str(outcome)}});
  active_streams = Gauge("dunlin_active_streams", "Generate calls admitted and not ended.");
  queued_requests = Gauge("dunlin_queued_requests", "Generate calls that wait for admission.");
  ttft = Histogram("dunlin_time_to_first_token_seconds", "From a call's arrival to its first token.", kLatencyBuckets);
  itl = Histogram("dunlin_inter_token_latency_seconds", "Between consecutive tokens of one choice.", kTokenBuckets);
  e2e = Histogram("dunlin_e2e_request_latency_seconds", "From a call's arrival to its end.", kRequestBuckets);
  prompt_tokens = Counter("dunlin_prompt_tokens_total", "Prompt tokens of planned calls.");
  generation_tokens = Counter("dunlin_generation_tokens_total", "Tokens received from workers.");
  client_stall =
      Counter("dunlin_client_stall_seconds_total", "Time that streams waited for clients that did not read.");
  worker_up = &prometheus::BuildGauge()
                   .Name("dunlin_worker_up")
                   .Help("1 while the worker is ready for requests.")
                   .Register(*registry);
  prometheus::BuildGauge()
      .Name("dunlin_build_info")
      .Help("1; the labels say what runs. A gateway uses no device.")
      .Register(*registry)
      .Add({{"version", options.version}, {"commit", options.commit}, {"device", "none"}, {"isa", "none"}})
      .Set(1);
}

GatewayMetrics::GatewayMetrics() : impl_(std::make_unique<Impl>()) {}
GatewayMetrics::~GatewayMetrics() = default;

absl::StatusOr<std::unique_ptr<GatewayMetrics>> GatewayMetrics::Create(const Options& options) {
  std::unique_ptr<GatewayMetrics> metrics(new GatewayMetrics());
  metrics->impl_->Register(options);
  if (options.bind_address.empty()) return metrics;
  // The listener's library reports a port in use by an exception.
  try {
    metrics->impl_->exposer = std::make_unique<prometheus::Exposer>(options.bind_address, 1);
    const std::vector<int> ports = metrics->impl_->exposer->GetListeningPorts();
    const std::string host = options.bind_address.substr(0, options.bind_address.rfind(':'));
    metrics->address_ = absl::StrCat(host, ":", ports.empty() ? 0 : ports.front());
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("metrics address ", options.bind_address, ": ", error.what()));
  }
  metrics->impl_->exposer->RegisterCollectable(metrics->impl_->registry);
  return metrics;
}

void GatewayMetrics::OnRequestEnd(bool known_model, absl::StatusCode code, absl::Duration took) {
  const auto it = impl_->requests.find({known_model, code});
  if (it != impl_->requests.end()) it->second->Increment();
  impl_->e2e->Observe(absl::ToDoubleSeconds(took));
}

void GatewayMetrics::OnRejected(const absl::Status& status) {
  impl_->rejected.at(Str(RejectionReason(status)))->Increment();
}

void GatewayMetrics::OnRouted(absl::string_view reason) {
  const auto it = impl_->routed.find(Str(reason));
  CHECK(it != impl_->routed.end()) << "routing reason without a series: " << reason;
  it->second->Increment();
}

void GatewayMetrics::SetLoad(size_t active_streams, size_t queued_requests) {
  impl_->active_streams->Set(static_cast<double>(active_streams));
  impl_->queued_requests->Set(static_cast<double>(queued_requests));
}

void GatewayMetrics::SetWorkerUp(absl::string_view worker, bool up) {
  MutexLock lock(&impl_->mu);
  prometheus::Gauge*& gauge = impl_->workers[Str(worker)];
  if (gauge == nullptr) gauge = &impl_->worker_up->Add({{"worker", Str(worker)}});
  gauge->Set(up ? 1 : 0);
}

void GatewayMetrics::RemoveWorker(absl::string_view worker) {
  MutexLock lock(&impl_->mu);
  const auto it = impl_->workers.find(Str(worker));
  if (it == impl_->workers.end()) return;
  impl_->worker_up->Remove(it->second);
  impl_->workers.erase(it);
}

void GatewayMetrics::OnFirstToken(absl::Duration ttft) { impl_->ttft->Observe(absl::ToDoubleSeconds(ttft)); }

void GatewayMetrics::OnInterTokenLatency(absl::Duration gap, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) impl_->itl->Observe(absl::ToDoubleSeconds(gap));
}

void GatewayMetrics::OnPromptTokens(uint32_t count) { impl_->prompt_tokens->Increment(count); }
void GatewayMetrics::OnGeneratedTokens(uint32_t count) { impl_->generation_tokens->Increment(count); }
void GatewayMetrics::OnClientStall(absl::Duration stall) {
  impl_->client_stall->Increment(std::max(absl::ToDoubleSeconds(stall), 0.0));
}

std::string GatewayMetrics::Text() const { return prometheus::TextSerializer().Serialize(impl_->registry->Collect()); }

}  // namespace dunlin::gateway
