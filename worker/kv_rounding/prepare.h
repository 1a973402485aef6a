// From a model and a wish to rounding tables: the calibration as it was kept or, where there is none that fits,
// measured now and kept. Thread-safety: start-up only.  Errors: none: a model whose calibration cannot be had is served
// all the same, rounded to nearest, and `say` (may be empty) is told.  Cost: a file read, or what calibrate.h says.
#ifndef DUNLIN_WORKER_KV_ROUNDING_PREPARE_H_
#define DUNLIN_WORKER_KV_ROUNDING_PREPARE_H_

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "kernels/paged_kv.h"
#include "model/architectures.h"
#include "model/model_config.h"
#include "model/model_file.h"
#include "worker/kv_formats.h"
#include "worker/kv_rounding/calibrate.h"
#include "worker/kv_rounding/calibration.h"
#include "worker/kv_rounding/rounding_tables.h"
#include "worker/kv_rounding/statistics.h"
#include "worker/transformer.h"
#include "worker/weights.h"

namespace dunlin::worker {

struct KvRoundingWish {
  KvRoundingMode mode;
  kernels::KvFormat k_format;
  kernels::KvFormat v_format;
};

template <typename Ops>
absl::StatusOr<KvCalibration> MeasureCalibration(const model::ModelFile& file, const model::ModelConfig& config,
                                                 Ops* ops, const Weights<typename Ops::Matrix>& weights) {
  const int tokens = std::min(kCalibrationTokens, config.context_tokens);
  const int positions = std::min(kCentrePositions, config.context_tokens);
  const RopeAngles rope = ComputeRopeAngles(config, positions);
  Network net = DescribeNetwork(config);
  net.rope = rope.Table(config);
  KvStatistics statistics({config.num_layers, config.num_kv_heads, config.head_dim}, config.num_q_heads, net.rope,
                          {.centre = positions, .metric = std::min(kMetricPositions, positions)});
  RETURN_IF_ERROR(KvCalibrator<Ops>(ops, &net, &weights, tokens).Run(&statistics));
  std::vector<uint8_t> scratch;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(const model::LayerTensors t, model::FindLayerTensors(file.gguf(), config, layer));
    statistics.AddOutputMatrix(layer, *t.o, file.Read(*t.o, &scratch));
    file.DropPages(*t.o);
  }
  return statistics.Finish();
}

// measure(): called where no calibration is kept that fits.
KvRoundingTables LoadOrMeasureKvRounding(const model::ModelFile& file, const model::ModelConfig& config,
                                         const KvRoundingWish& wish,
                                         const std::function<void(const std::string&)>& tell,
                                         const std::function<absl::StatusOr<KvCalibration>()>& measure);

template <typename Ops>
KvRoundingTables PrepareKvRounding(const model::ModelFile& file, const model::ModelConfig& config,
                                   const KvRoundingWish& wish, const std::function<void(const std::string&)>& tell,
                                   Ops* ops, const Weights<typename Ops::Matrix>& weights) {
  return LoadOrMeasureKvRounding(file, config, wish, tell,
                                 [&] { return MeasureCalibration(file, config, ops, weights); });
}

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_PREPARE_H_
