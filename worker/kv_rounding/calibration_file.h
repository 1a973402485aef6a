// Where a model's KvCalibration is kept: MODEL.dunlin-kv beside the model file or, where that folder cannot be written,
// <cache>/kv/FINGERPRINT.dunlin-kv with <cache> = $XDG_CACHE_HOME/dunlin, else $HOME/.cache/dunlin.
// Thread-safety: several processes may save and load at once (files appear whole, by renaming).
// Errors: as ParseKvCalibration; kNotFound when there is no file; Save: the last folder's error, naming the file.
// Source: ours.
#ifndef DUNLIN_WORKER_KV_ROUNDING_CALIBRATION_FILE_H_
#define DUNLIN_WORKER_KV_ROUNDING_CALIBRATION_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/model_config.h"
#include "model/model_file.h"
#include "worker/kv_rounding/calibration.h"

namespace dunlin::worker {

// Of what decides a model's keys, values and queries: the config's numbers, the tensors' names and shapes, the file's
// size and the ends of every tensor's data. Cost: reads at most 8 KiB per tensor.
uint64_t ModelFingerprint(const model::ModelFile& file, const model::ModelConfig& config);

class CalibrationFile {
 public:
  CalibrationFile(const std::string& model_path, uint64_t fingerprint);

  absl::StatusOr<KvCalibration> Load(const KvShape& shape) const;
  // The path that was written.
  absl::StatusOr<std::string> Save(const KvCalibration& calibration) const;

 private:
  uint64_t fingerprint_;
  std::vector<std::string> paths_;  // in the order of preference
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_KV_ROUNDING_CALIBRATION_FILE_H_
