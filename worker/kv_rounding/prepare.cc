#include "worker/kv_rounding/prepare.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "kernels/kv_rounding.h"
#include "worker/kv_rounding/calibration_file.h"

namespace dunlin::worker {

KvRoundingTables LoadOrMeasureKvRounding(const model::ModelFile& file, const model::ModelConfig& config,
                                         const KvRoundingWish& wish,
                                         const std::function<void(const std::string&)>& tell,
                                         const std::function<absl::StatusOr<KvCalibration>()>& measure) {
  if (kernels::KvScaleBytes(wish.k_format) == 0 && kernels::KvScaleBytes(wish.v_format) == 0) return {};
  const auto say = [&tell](const std::string& line) {
    if (tell) tell(line);
  };
  if (config.head_dim > kernels::kMaxRoundedDim) {
    say(absl::StrCat("heads of ", config.head_dim, " values: K and V are rounded to nearest"));
    return {};
  }
  const auto make_tables =
      [&wish](const absl::StatusOr<KvCalibration>& calibration) -> absl::StatusOr<KvRoundingTables> {
    RETURN_IF_ERROR(calibration.status());
    return KvRoundingTables::Create(*calibration, wish.k_format, wish.v_format, wish.mode);
  };
  const CalibrationFile kept(file.path(), ModelFingerprint(file, config));
  absl::StatusOr<KvRoundingTables> tables =
      make_tables(kept.Load({config.num_layers, config.num_kv_heads, config.head_dim}));
  if (tables.ok()) return *std::move(tables);
  say(absl::StrCat("calibrating the rounding of K and V (", tables.status().message(), ")"));
  const absl::Time begin = Clock::Real()->Now();
  const absl::StatusOr<KvCalibration> measured = measure();
  tables = make_tables(measured);
  if (!tables.ok()) {
    say(absl::StrCat("no calibration, so K and V are rounded to nearest: ", tables.status().message()));
    return {};
  }
  const absl::StatusOr<std::string> path = kept.Save(*measured);
  say(absl::StrFormat("calibrated in %.1f s; %s", absl::ToDoubleSeconds(Clock::Real()->Now() - begin),
                      path.ok() ? absl::StrCat("kept in ", *path)
                                : absl::StrCat("it will be done again at the next start: ", path.status().message())));
  return *std::move(tables);
}

}  // namespace dunlin::worker
