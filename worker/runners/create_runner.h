// What CreateCpuRunner and CreateReferenceRunner share: from a file and options to a TransformerRunner<Ops>.
// Private to worker/runners. Thread-safety, errors: as cpu_runner.h.
#ifndef DUNLIN_WORKER_RUNNERS_CREATE_RUNNER_H_
#define DUNLIN_WORKER_RUNNERS_CREATE_RUNNER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/paged_kv.h"
#include "model/architectures.h"
#include "model/model_config.h"
#include "worker/kv_rounding/calibrate.h"
#include "worker/kv_rounding/calibration.h"
#include "worker/kv_rounding/calibration_file.h"
#include "worker/kv_rounding/rounding_tables.h"
#include "worker/kv_rounding/statistics.h"
#include "worker/memory_budget.h"
#include "worker/runners/cpu_runner.h"
#include "worker/runners/kv_arena.h"
#include "worker/runners/transformer_runner.h"
#include "worker/weights.h"

namespace dunlin::worker {

// Checks the options against the model; fills in max_model_len. kInvalidArgument naming the option and its limit.
absl::Status ResolveOptions(const model::ModelConfig& config, RunnerOptions* options);

// Pages that fit beside `weight_bytes`.
absl::StatusOr<int32_t> PlanPages(const RunnerOptions& options, const kernels::PageLayout& layout,
                                  uint64_t weight_bytes);

// The model's calibration as kept, or measured now (and kept, where that works).
template <typename Ops>
absl::StatusOr<KvCalibration> LoadOrMeasureCalibration(const model::GgufFile& file, const model::ModelConfig& config,
                                                       const RunnerOptions& options, Ops* ops,
                                                       const Weights<typename Ops::Matrix>& weights) {
  const KvShape shape{config.num_layers, config.num_kv_heads, config.head_dim};
  const CalibrationFile kept(file.path(), ModelFingerprint(file, config));
  absl::StatusOr<KvCalibration> calibration = kept.Load(shape);
  if (calibration.ok()) return calibration;
  const auto say = [&options](const std::string& line) {
    if (options.say) options.say(line);
  };
  say(absl::StrCat("calibrating the KV rounding (", calibration.status().message(), ")"));
  const absl::Time begin = Clock::Real()->Now();
  const int tokens = std::min(kCalibrationTokens, config.context_tokens);
  const RopeAngles rope = ComputeRopeAngles(config, tokens);
  Network net = DescribeNetwork(config);
  net.rope = rope.Table(config);
  KvStatistics statistics(shape, config.num_q_heads);
  RETURN_IF_ERROR(KvCalibrator<Ops>(ops, &net, &weights, tokens).Run(&statistics));
  for (int layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(const model::LayerTensors t, model::FindLayerTensors(file.gguf(), config, layer));
    statistics.AddOutputMatrix(layer, *t.o);
    file.DropPages(t.o->data);
  }
  KvCalibration measured = statistics.Finish();
  const absl::StatusOr<std::string> path = kept.Save(measured);
  say(absl::StrFormat("calibrated in %.1f s; %s", absl::ToDoubleSeconds(Clock::Real()->Now() - begin),
                      path.ok() ? absl::StrCat("kept in ", *path)
                                : absl::StrCat("not kept, so it is done at every start: ", path.status().message())));
  return measured;
}

// Sets parts->kv_rounding as options.kv_rounding asks.
template <typename Ops>
absl::Status PrepareKvRounding(const model::GgufFile& file, const model::ModelConfig& config,
                               const RunnerOptions& options, typename TransformerRunner<Ops>::Parts* parts) {
  const bool small = kernels::KvScaleBytes(options.k_format) > 0 || kernels::KvScaleBytes(options.v_format) > 0;
  if (options.kv_rounding == KvRoundingMode::kNearest || !small) return absl::OkStatus();
  if (config.head_dim > kernels::kMaxRoundedDim) {
    if (options.say) options.say("heads of this size are rounded to nearest");
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const KvCalibration calibration,
                   LoadOrMeasureCalibration(file, config, options, parts->ops.get(), parts->weights));
  ASSIGN_OR_RETURN(parts->kv_rounding,
                   KvRoundingTables::Create(calibration, options.k_format, options.v_format, options.kv_rounding));
  return absl::OkStatus();
}

// `info` brings device, isa, threads and bandwidth; packed_bytes(ops) tells the size of the packed weights.
template <typename Ops, typename PackedBytes>
absl::StatusOr<std::unique_ptr<ModelRunner>> CreateRunner(const model::GgufFile& file, RunnerOptions options,
                                                          std::unique_ptr<Ops> ops, RunnerInfo info,
                                                          PackedBytes packed_bytes) {
  ASSIGN_OR_RETURN(const model::ModelConfig config, model::ParseModelConfig(file.gguf()));
  RETURN_IF_ERROR(ResolveOptions(config, &options));
  const kernels::PageLayout layout = kernels::PageLayout::Create(
      options.page_tokens, config.num_layers, config.num_kv_heads, config.head_dim, options.k_format, options.v_format);
  // Refuse before the long part: a pool that cannot fit beside the file's own size never will.
  RETURN_IF_ERROR(PlanPages(options, layout, file.file_bytes()).status());

  typename TransformerRunner<Ops>::Parts parts;
  parts.ops = std::move(ops);
  ASSIGN_OR_RETURN(parts.weights, WeightLoader<Ops>(parts.ops.get(), &file, options.progress).Load(config));
  info.weight_bytes = packed_bytes(*parts.ops);
  RETURN_IF_ERROR(PrepareKvRounding<Ops>(file, config, options, &parts));
  info.kv_rounding_id = parts.kv_rounding.id();
  ASSIGN_OR_RETURN(info.num_pages, PlanPages(options, layout, info.weight_bytes));
  ASSIGN_OR_RETURN(parts.arena, KvArena::Create(layout, info.num_pages));
  parts.rope = ComputeRopeAngles(config, options.max_model_len);
  parts.network = DescribeNetwork(config);
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
