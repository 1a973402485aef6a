// What a gateway knows of the model it serves: its name, and from the model file its vocabulary and chat template.
// Thread-safety: const-safe once loaded.  Owns: tokenizer and template (the file is closed again).
// Errors: Load: those of OpenModel, Tokenizer and ChatTemplate, naming the file. A model without a template is fine.
// Source: GGUF metadata keys.
#ifndef DUNLIN_GATEWAY_MODEL_INFO_H_
#define DUNLIN_GATEWAY_MODEL_INFO_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gateway/request_plan.h"
#include "gateway/worker_pool.h"
#include "model/chat_template/chat_template.h"
#include "model/tokenizer/tokenizer.h"

namespace dunlin::gateway {

struct ModelInfo {
  std::string name;
  std::string architecture;
  SamplingDefaults sampling_defaults;
  std::unique_ptr<const model::Tokenizer> tokenizer;
  std::unique_ptr<const model::ChatTemplate> chat_template;  // nullptr = none

  // served_name: "" = the file's name without its ending. chat_template_path: "" = the model's own.
  static absl::StatusOr<std::unique_ptr<const ModelInfo>> Load(const std::string& path, const std::string& served_name,
                                                               const std::string& chat_template_path);

  // kNotFound unless `requested` is empty or this model's name.
  absl::Status CheckName(absl::string_view requested) const;
  // As ListModels and GetServerInfo describe it, with what ready workers add.
  v1::Model Describe(const WorkerPool& workers) const;
};

}  // namespace dunlin::gateway

#endif  // DUNLIN_GATEWAY_MODEL_INFO_H_
