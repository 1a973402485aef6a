#include "gateway/model_info.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/hugging_face/open_model.h"

namespace dunlin::gateway {
namespace {

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("chat template file ", path, " cannot be read"));
  std::ostringstream content;
  content << in.rdbuf();
  return content.str();
}

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<std::string> TemplateSource(const model::Gguf& gguf, const std::string& chat_template_path) {
  if (!chat_template_path.empty()) return ReadTextFile(chat_template_path);
  constexpr absl::string_view kKey = "tokenizer.chat_template";
  if (gguf.Find(kKey) == nullptr) return std::string();
  ASSIGN_OR_RETURN(const absl::string_view source, gguf.GetString(kKey));
  return std::string(source);
}

// "" for an absent or ill-typed key: these two only choose defaults.
std::string OptionalString(const model::Gguf& gguf, absl::string_view key) {
  const absl::StatusOr<absl::string_view> value = gguf.GetString(key);
  return value.ok() ? std::string(*value) : std::string();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const ModelInfo>> ModelInfo::Load(const std::string& path,
                                                                 const std::string& served_name,
                                                                 const std::string& chat_template_path) {
  ASSIGN_OR_RETURN(const std::unique_ptr<model::ModelFile> file, model::OpenModel(path));
  const model::Gguf& gguf = file->gguf();
  auto info = std::make_unique<ModelInfo>();
  info->name = served_name.empty() ? model::ModelName(path) : served_name;
  info->architecture = OptionalString(gguf, "general.architecture");
  info->sampling_defaults = DefaultsForModel(OptionalString(gguf, "general.name"), info->architecture);
  absl::StatusOr<std::unique_ptr<const model::Tokenizer>> tokenizer = model::Tokenizer::Create(gguf);
  if (!tokenizer.ok()) return InFile(path, tokenizer.status());
  info->tokenizer = *std::move(tokenizer);
  const std::string& template_path = chat_template_path.empty() ? path : chat_template_path;
  const absl::StatusOr<std::string> source = TemplateSource(gguf, chat_template_path);
  if (!source.ok()) return InFile(template_path, source.status());
  if (!source->empty()) {
    absl::StatusOr<std::unique_ptr<const model::ChatTemplate>> compiled = model::ChatTemplate::Compile(*source);
    if (!compiled.ok()) return InFile(template_path, compiled.status());
    info->chat_template = *std::move(compiled);
  }
  return info;
}

absl::Status ModelInfo::CheckName(absl::string_view requested) const {
  if (requested.empty() || requested == name) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("model '", requested, "' is not served; '", name, "' is"));
}

v1::Model ModelInfo::Describe(const WorkerPool& workers) const {
  v1::Model model;
  uint32_t ready = 0;
  for (const WorkerSnapshot& worker : workers.Snapshot()) {
    if (!worker.ready) continue;
    if (ready++ == 0) model = worker.info.model();
  }
  model.set_name(name);
  if (model.architecture().empty()) model.set_architecture(architecture);
  if (ready > 0) model.set_context_tokens(workers.ContextTokens());
  model.set_vocab_size(static_cast<uint32_t>(tokenizer->vocab_size()));
  model.set_ready_workers(ready);
  return model;
}

}  // namespace dunlin::gateway
