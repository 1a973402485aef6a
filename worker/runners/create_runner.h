// What CreateCpuRunner and CreateReferenceRunner share: from a file and options to a TransformerRunner<Ops>.
// Private to worker/runners. Thread-safety, errors: as cpu_runner.h.
#ifndef DUNLIN_WORKER_RUNNERS_CREATE_RUNNER_H_
#define DUNLIN_WORKER_RUNNERS_CREATE_RUNNER_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/paged_kv.h"
#include "model/model_config.h"
#include "worker/kv_rounding/prepare.h"
#include "worker/memory_budget.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/kv_arena.h"
#include "worker/runners/swap_arena.h"
#include "worker/runners/transformer_runner.h"
#include "worker/weights.h"

namespace dunlin::worker {

// Checks the options against the model; fills in max_model_len and attention_window. kInvalidArgument naming the option
// and its limit.
absl::Status ResolveOptions(const model::ModelConfig& config, RunnerOptions* options);

// The pages of a runner with resolved options.
kernels::PageLayout LayoutOf(const model::ModelConfig& config, const RunnerOptions& options);

// What the options ask of a pool; other_bytes is the caller's.
KvPoolRequest PoolRequest(const RunnerOptions& options, const kernels::PageLayout& layout);

// Pages that fit beside `weight_bytes`.
absl::StatusOr<KvPoolPlan> PlanPages(const RunnerOptions& options, const kernels::PageLayout& layout,
                                     uint64_t weight_bytes);

// The host tier the options ask for, nullptr when they ask for none; fills in its part of *info.
absl::StatusOr<std::unique_ptr<SwapArena>> CreateSwap(const RunnerOptions& options, const kernels::PageLayout& layout,
                                                      RunnerInfo* info);

// `info` brings device, isa and threads; describe_weights(ops, &info) adds what is known once the weights are packed.
template <typename Ops, typename DescribeWeights>
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunner(const model::ModelFile& file, RunnerOptions options,
                                                          std::unique_ptr<Ops> ops, RunnerInfo info,
                                                          DescribeWeights describe_weights) {
  ASSIGN_OR_RETURN(const model::ModelConfig config, model::ParseModelConfig(file.gguf()));
  RETURN_IF_ERROR(ResolveOptions(config, &options));
  const kernels::PageLayout layout = LayoutOf(config, options);
  // Refuse before the long part: a pool that cannot fit beside the file's own size never will.
  RETURN_IF_ERROR(PlanPages(options, layout, file.file_bytes()).status());

  typename TransformerRunner<Ops>::Parts parts;
  parts.ops = std::move(ops);
  ASSIGN_OR_RETURN(parts.weights, WeightLoader<Ops>(parts.ops.get(), &file, options.progress).Load(config));
  describe_weights(parts.ops.get(), &info);
  if (options.kv_rounding != KvRoundingMode::kNearest) {
    parts.kv_rounding = PrepareKvRounding(file, config, {options.kv_rounding, options.k_format, options.v_format},
                                          options.say, parts.ops.get(), parts.weights);
  }
  info.kv_rounding_id = parts.kv_rounding.id();
  ASSIGN_OR_RETURN(const KvPoolPlan plan, PlanPages(options, layout, info.weight_bytes));
  info.num_pages = plan.pages;
  ASSIGN_OR_RETURN(parts.arena, KvArena::Create(layout, info.num_pages));
  ASSIGN_OR_RETURN(parts.swap, CreateSwap(options, layout, &info));
  parts.rope = ComputeRopeAngles(config, options.max_model_len);
  parts.network = DescribeNetwork(config);
  parts.network.attention.window = options.attention_window;
  parts.network.attention.sinks = options.attention_sinks;
  parts.network.attention.top_pages = options.attention_top_pages;
  parts.network.rope = parts.rope.Table(config);
  parts.network.kv_rounding = parts.kv_rounding.Layers();
  info.vocab_size = config.vocab_size;
  info.max_model_len = options.max_model_len;
  info.page_tokens = options.page_tokens;
  info.page_bytes = layout.page_bytes;
  info.max_rows = options.max_rows;
  parts.info = std::move(info);
  return std::make_unique<TransformerRunner<Ops>>(std::move(parts));
}

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_CREATE_RUNNER_H_
