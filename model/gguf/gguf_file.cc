#include "model/gguf/gguf_file.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace dunlin::model {

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  std::unique_ptr<GgufFile> file(new GgufFile());
  ASSIGN_OR_RETURN(file->file_, MappedFile::Open(path));
  absl::StatusOr<Gguf> gguf = Gguf::Parse(file->file_->bytes());
  if (!gguf.ok()) return absl::Status(gguf.status().code(), absl::StrCat(path, ": ", gguf.status().message()));
  file->gguf_ = *std::move(gguf);
  return file;
}

std::span<const uint8_t> GgufFile::Read(const GgufTensor& tensor, std::vector<uint8_t>* /*scratch*/) const {
  return tensor.data;
}

}  // namespace dunlin::model
