// A file mapped for reading. As with every mapping, a file that is truncated while it is open ends the process (SIGBUS)
// when the lost part is read: replace model files by renaming.
// Thread-safety: const-safe.  Owns: the mapping.  Errors: kNotFound, kPermissionDenied, kInvalidArgument (not a regular
// file, or empty), kUnavailable, each naming the path.
#ifndef DUNLIN_MODEL_MAPPED_FILE_H_
#define DUNLIN_MODEL_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace dunlin::model {

class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const uint8_t> bytes() const { return {static_cast<const uint8_t*>(map_), size_}; }
  // Gives the memory behind a part of bytes() back; it is read again from the file when touched.
  void DropPages(std::span<const uint8_t> data) const;

 private:
  MappedFile() = default;
  std::string path_;
  void* map_ = nullptr;
  size_t size_ = 0;
};

}  // namespace dunlin::model

#endif  // DUNLIN_MODEL_MAPPED_FILE_H_
