#include "worker/runners/create_runner.h"

#include <sched.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/clock.h"

namespace dunlin::worker {

int UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

namespace {

// The window becomes the narrower of the model's and the option's.
absl::Status ResolveAttention(const model::ModelConfig& config, RunnerOptions* options) {
  const int own = config.sliding_window;
  if (options->attention_window < 0 || (own > 0 && options->attention_window > own)) {
    return absl::InvalidArgumentError(
        own > 0 ? absl::StrFormat("--attention-window %d: the model's own sliding window is %d; only a narrower one "
                                  "can apply (0 = the model's)",
                                  options->attention_window, own)
                : absl::StrFormat("--attention-window %d: allowed are 0 (off) and more", options->attention_window));
  }
  if (options->attention_window == 0) options->attention_window = own;
  if (options->attention_sinks < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--attention-sinks %d: allowed are 0 (off) and more", options->attention_sinks));
  }
  if (options->attention_sinks > 0 && options->attention_window == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--attention-sinks %d: needs --attention-window; without a window every token is seen anyway",
                        options->attention_sinks));
  }
  if (options->attention_sinks >= options->max_model_len) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--attention-sinks %d: a sequence has at most %d tokens (--max-model-len), so the window would "
                        "never apply",
                        options->attention_sinks, options->max_model_len));
  }
  if (options->attention_top_pages < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--attention-top-pages %d: allowed are 0 (off) and more", options->attention_top_pages));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ResolveOptions(const model::ModelConfig& config, RunnerOptions* options) {
  if (options->max_model_len == 0) options->max_model_len = config.context_tokens;
  if (options->max_model_len < 2 || options->max_model_len > config.context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat("--max-model-len %d: allowed is 2 to %d, the model's context",
                                                      options->max_model_len, config.context_tokens));
  }
  const int t = options->page_tokens;
  if (t != 8 && t != 16 && t != 32 && t != 64) {
    return absl::InvalidArgumentError(absl::StrFormat("--block-size %d: allowed are 8, 16, 32 and 64", t));
  }
  if (options->max_rows < 1 || options->max_rows > 16384) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--max-num-batched-tokens %d: allowed is 1 to 16384", options->max_rows));
  }
  if (!(options->memory_utilization > 0.0 && options->memory_utilization <= 1.0)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--gpu-memory-utilization %g: allowed is more than 0, at most 1", options->memory_utilization));
  }
  return ResolveAttention(config, options);
}

kernels::PageLayout LayoutOf(const model::ModelConfig& config, const RunnerOptions& options) {
  return kernels::PageLayout::Create(options.page_tokens, config.num_layers, config.num_kv_heads, config.head_dim,
                                     options.k_format, options.v_format,
                                     /*key_bounds=*/options.attention_top_pages > 0);
}

KvPoolRequest PoolRequest(const RunnerOptions& options, const kernels::PageLayout& layout) {
  KvPoolRequest request;
  request.explicit_bytes = options.kv_bytes;
  request.utilization = options.memory_utilization;
  request.page_bytes = layout.page_bytes;
  request.page_tokens = layout.page_tokens;
  request.max_model_len = options.max_model_len;
  request.max_num_seqs = options.max_num_seqs;
  return request;
}

absl::StatusOr<KvPoolPlan> PlanPages(const RunnerOptions& options, const kernels::PageLayout& layout,
                                     uint64_t weight_bytes) {
  absl::StatusOr<HostMemory> host = ReadHostMemory();
  if (!host.ok()) {
    // Only the share of the memory needs it; an explicit size is then taken at its word.
    if (options.kv_bytes == 0) return host.status();
    host = HostMemory{};
  }
  KvPoolRequest request = PoolRequest(options, layout);
  request.other_bytes = weight_bytes + (options.swap_directory.empty() ? options.swap_bytes : 0);
  return PlanKvPool(request, *host);
}

absl::StatusOr<RunnerPlan> PlanRunner(const model::ModelFile& file, RunnerOptions options) {
  ASSIGN_OR_RETURN(const model::ModelConfig config, model::ParseModelConfig(file.gguf()));
  RETURN_IF_ERROR(ResolveOptions(config, &options));
  const kernels::PageLayout layout = LayoutOf(config, options);
  RunnerPlan plan;
  plan.weight_bytes = file.file_bytes();
  ASSIGN_OR_RETURN(plan.pool, PlanPages(options, layout, plan.weight_bytes));
  plan.page_bytes = layout.page_bytes;
  plan.max_model_len = options.max_model_len;
  if (options.swap_bytes != 0) plan.host_slots = SwapArena::SlotsIn(options.swap_bytes, layout.page_bytes);
  return plan;
}

absl::StatusOr<std::unique_ptr<SwapArena>> CreateSwap(const RunnerOptions& options, const kernels::PageLayout& layout,
                                                      RunnerInfo* info) {
  if (options.swap_bytes == 0) return nullptr;
  info->host_slots = SwapArena::SlotsIn(options.swap_bytes, layout.page_bytes);
  if (info->host_slots == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--swap-space-bytes %d: holds no page of %d bytes", options.swap_bytes, layout.page_bytes));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<SwapArena> swap,
                   SwapArena::Create({layout.page_bytes, info->host_slots, LayoutId(layout) ^ info->kv_rounding_id,
                                      options.swap_directory}));
  if (options.measure_bandwidth) {
    std::vector<uint8_t> page(layout.page_bytes);
    absl::Duration best = absl::InfiniteDuration();
    for (int i = 0; i < 4; ++i) {  // the first one pays for untouched memory
      RETURN_IF_ERROR(swap->Save(0, page));
      const absl::Time begin = Clock::Real()->Now();
      RETURN_IF_ERROR(swap->Load(0, page));
      best = std::min(best, Clock::Real()->Now() - begin);
    }
    info->host_bandwidth_bytes_per_second =
        static_cast<double>(layout.page_bytes) / std::max(1e-9, absl::ToDoubleSeconds(best));
  }
  return swap;
}

}  // namespace dunlin::worker
