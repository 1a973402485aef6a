// A mapped GGUF file. Thread-safety: const-safe.  Owns: the mapping; the views in gguf() live as long as this.
// Errors of Open: those of MappedFile and Gguf::Parse, naming the path.  Cost: the header alone is read.
#ifndef DUNLIN_MODEL_GGUF_GGUF_FILE_H_
#define DUNLIN_MODEL_GGUF_GGUF_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/gguf/gguf.h"
#include "model/mapped_file.h"
#include "model/model_file.h"

namespace dunlin::model {

class GgufFile : public ModelFile {
 public:
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);

  const Gguf& gguf() const override { return gguf_; }
  const std::string& path() const override { return file_->path(); }
  size_t file_bytes() const override { return file_->bytes().size(); }
  std::span<const uint8_t> Read(const GgufTensor& tensor, std::vector<uint8_t>* scratch) const override;
  std::span<const uint8_t> Stored(const GgufTensor& tensor) const override { return tensor.data; }
  void DropPages(const GgufTensor& tensor) const override { file_->DropPages(tensor.data); }

 private:
  GgufFile() = default;
  std::unique_ptr<MappedFile> file_;
  Gguf gguf_;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_GGUF_GGUF_FILE_H_
