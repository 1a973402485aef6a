#include "worker/service/dry_run.h"

#include <cstdint>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/hugging_face/open_model.h"
#include "nlohmann/json.hpp"
#include "worker/kv_formats.h"
#include "worker/runners/backend.h"
#include "worker/service/settings.h"

namespace dunlin::worker {
namespace {

double Mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

std::string Json(const dunlin::v1::ServerConfig& config, const RunnerPlan& plan, const char* kv_dtype, int64_t tokens) {
  const nlohmann::ordered_json json = {
      {"model", config.model()},
      {"device", plan.device},
      {"weight_bytes", plan.weight_bytes},
      {"scratch_bytes", plan.scratch_bytes},
      {"kv_cache_dtype", kv_dtype},
      {"page_size_tokens", config.block_size()},
      {"page_bytes", plan.page_bytes},
      {"pages", plan.pool.pages},
      {"pool_bytes", static_cast<uint64_t>(plan.pool.pages) * plan.page_bytes},
      {"tokens", tokens},
      {"max_model_len", plan.max_model_len},
      {"full_length_sequences", tokens / plan.max_model_len},
      {"bound", plan.pool.bound},
      {"budget_bytes", plan.pool.budget_bytes},
      {"budget_source", plan.pool.budget_source},
      {"memory_bytes", plan.pool.host.total_bytes},
      {"memory_source", plan.pool.host.total_source},
      {"available_bytes", plan.pool.host.available_bytes},
      {"available_source", plan.pool.host.available_source},
      {"host_tier_pages", plan.host_slots},
      {"host_tier_place", config.swap_directory().empty() ? "memory" : config.swap_directory()},
  };
  return json.dump() + "\n";
}

std::string Text(const dunlin::v1::ServerConfig& config, const std::string& why_cpu, const RunnerPlan& plan,
                 const char* kv_dtype, int64_t tokens) {
  const HostMemory& host = plan.pool.host;
  std::string out;
  const auto line = [&out](const char* what, const std::string& value) {
    absl::StrAppendFormat(&out, "%-12s %s\n", what, value);
  };
  line("model", config.model());
  line("device", why_cpu.empty() ? plan.device : absl::StrFormat("%s (auto: %s)", plan.device, why_cpu));
  if (host.total_bytes != 0) {
    line("memory", absl::StrFormat("%.1f MiB (%s), %.1f MiB available (%s)", Mib(host.total_bytes), host.total_source,
                                   Mib(host.available_bytes), host.available_source));
  }
  line("weights", absl::StrFormat("%.1f MiB (the file's size)", Mib(plan.weight_bytes)));
  if (plan.scratch_bytes > 0) {
    line("scratch", absl::StrFormat("%.1f MiB (activations, logits, tables)", Mib(plan.scratch_bytes)));
  }
  if (plan.host_slots > 0) {
    line("host tier", absl::StrFormat("%d pages in %s", plan.host_slots,
                                      config.swap_directory().empty() ? "memory" : config.swap_directory()));
  }
  line("budget", absl::StrFormat("%.1f MiB (%s)", Mib(plan.pool.budget_bytes), plan.pool.budget_source));
  line("page", absl::StrFormat("%d tokens, %d bytes, %s", config.block_size(), plan.page_bytes, kv_dtype));
  line("pool", absl::StrFormat("%d pages, %.1f MiB; bound by: %s", plan.pool.pages,
                               Mib(static_cast<uint64_t>(plan.pool.pages) * plan.page_bytes), plan.pool.bound));
  line("holds", absl::StrFormat("%d tokens: %d sequences of --max-model-len %d", tokens, tokens / plan.max_model_len,
                                plan.max_model_len));
  return out;
}

}  // namespace

absl::StatusOr<std::string> DryRun(const dunlin::v1::ServerConfig& config) {
  ASSIGN_OR_RETURN(const RunnerOptions options, MakeRunnerOptions(config));
  ASSIGN_OR_RETURN(const KvFormats kv, ParseKvFormats(config.kv_cache_dtype()));
  ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(config.device()));
  ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelFile> file, model::OpenModel(config.model()));
  ASSIGN_OR_RETURN(const RunnerPlan plan, PlanRunnerOn(device, *file, options));
  const int64_t tokens = int64_t{plan.pool.pages} * config.block_size();
  return config.json() ? Json(config, plan, kv.name, tokens) : Text(config, device.why_cpu, plan, kv.name, tokens);
}

}  // namespace dunlin::worker
