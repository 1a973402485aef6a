#include "worker/service/settings.h"

#include <climits>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "proto/config_flags.h"
#include "proto/limits.h"
#include "worker/kv_formats.h"

namespace dunlin::worker {

absl::StatusOr<RunnerOptions> MakeRunnerOptions(const dunlin::v1::ServerConfig& config) {
  if (config.model().empty()) return absl::InvalidArgumentError("--model: needs a model file (GGUF)");
  ASSIGN_OR_RETURN(const KvFormats kv, ParseKvFormats(config.kv_cache_dtype()));
  RunnerOptions options;
  options.k_format = kv.k;
  options.v_format = kv.v;
  ASSIGN_OR_RETURN(options.kv_rounding, ParseKvRounding(config.kv_rounding()));
  options.page_tokens = static_cast<int>(config.block_size());
  options.max_rows = static_cast<int>(config.max_num_batched_tokens());
  options.max_num_seqs = static_cast<int>(config.max_num_seqs());
  options.threads = static_cast<int>(config.threads());
  options.decode_threads = static_cast<int>(config.decode_threads());
  options.memory_utilization = config.gpu_memory_utilization();
  options.attention_window = static_cast<int>(config.attention_window());
  options.attention_sinks = static_cast<int>(config.attention_sinks());
  options.attention_top_pages = static_cast<int>(config.attention_top_pages());
  options.enforce_eager = config.enforce_eager();
  options.max_graph_context = static_cast<int>(config.max_context_len_to_capture());
  if (config.has_max_model_len()) {
    ASSIGN_OR_RETURN(const uint64_t tokens, ParseSize(config.max_model_len()));
    if (tokens > INT_MAX) return absl::InvalidArgumentError(absl::StrCat("--max-model-len: ", tokens, " is too large"));
    options.max_model_len = static_cast<int>(tokens);
  }
  if (config.has_kv_cache_memory_bytes()) {
    ASSIGN_OR_RETURN(options.kv_bytes, ParseSize(config.kv_cache_memory_bytes()));
  }
  if (config.has_swap_space_bytes()) {
    ASSIGN_OR_RETURN(options.swap_bytes, ParseSize(config.swap_space_bytes()));
  }
  options.swap_directory = config.swap_directory();
  if (!options.swap_directory.empty() && options.swap_bytes == 0) {
    return absl::InvalidArgumentError("--swap-directory: needs --swap-space-bytes, the size of the host tier");
  }
  return options;
}

// The flag's and a request's limit are one.
static_assert(limits::kMaxDraftTokens == static_cast<uint32_t>(kMaxDraftTokens));

EngineOptions MakeEngineOptions(const dunlin::v1::ServerConfig& config) {
  EngineOptions options;
  options.max_num_seqs = static_cast<int>(config.max_num_seqs());
  options.max_num_batched_tokens = static_cast<int>(config.max_num_batched_tokens());
  options.num_scheduler_steps = static_cast<int>(config.num_scheduler_steps());
  options.inter_token_target = absl::Milliseconds(config.inter_token_target_ms());
  options.num_speculative_tokens = static_cast<int>(config.num_speculative_tokens());
  options.enable_prefix_caching = config.enable_prefix_caching();
  options.record_cache_events = true;
  return options;
}

}  // namespace dunlin::worker
