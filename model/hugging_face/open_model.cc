#include "model/hugging_face/open_model.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "model/gguf/gguf_file.h"
#include "model/hugging_face/hf_folder.h"

namespace dunlin::model {

absl::StatusOr<std::unique_ptr<ModelFile>> OpenModel(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    ASSIGN_OR_RETURN(std::unique_ptr<ModelFile> folder, HfFolder::Open(path));
    return folder;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<ModelFile> file, GgufFile::Open(path));
  return file;
}

std::string ModelName(absl::string_view path) {
  while (absl::ConsumeSuffix(&path, "/")) {
  }
  const absl::string_view name = path.substr(path.rfind('/') + 1);  // npos + 1 = 0
  return std::string(name == ".gguf" ? name : absl::StripSuffix(name, ".gguf"));
}

}  // namespace dunlin::model
