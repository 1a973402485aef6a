// A model that is open: its description in GGUF's keys and names, and its tensors' bytes. What kind of file it came
// from stays behind this: the one seam between model files and whoever loads or describes them. Thread-safety:
// const-safe.  Owns: the mappings; views live as long as this.  Errors: none here; Open... of each kind. Source: ours.
#ifndef DUNLIN_MODEL_MODEL_FILE_H_
#define DUNLIN_MODEL_MODEL_FILE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/gguf/gguf.h"

namespace dunlin::model {

class ModelFile {
 public:
  virtual ~ModelFile() = default;
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  virtual const Gguf& gguf() const = 0;
  virtual const std::string& path() const = 0;
  virtual size_t file_bytes() const = 0;  // of all files

  // A tensor of gguf() as num_bytes() bytes of its type's blocks: a view of the file, or made in *scratch.
  virtual std::span<const uint8_t> Read(const GgufTensor& tensor, std::vector<uint8_t>* scratch) const = 0;
  // The main part of its bytes as the file holds them, in whatever form; for telling models apart.
  virtual std::span<const uint8_t> Stored(const GgufTensor& tensor) const = 0;
  // Tells the kernel that the file's pages behind a tensor are no longer needed (after packing); views stay valid.
  virtual void DropPages(const GgufTensor& tensor) const = 0;

 protected:
  ModelFile() = default;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_MODEL_FILE_H_
