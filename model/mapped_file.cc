#include "model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace dunlin::model {
namespace {

absl::Status FileError(const std::string& path, absl::string_view what, int error) {
  const std::string message = absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

// Closes a descriptor that is only needed until the file is mapped.
class ScopedFd {
 public:
  explicit ScopedFd(int fd) : fd_(fd) {}
  ~ScopedFd() {
    if (fd_ >= 0) close(fd_);
  }
  ScopedFd(const ScopedFd&) = delete;
  ScopedFd& operator=(const ScopedFd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe by mistake must not wait for a writer.
  const ScopedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return FileError(path, "open", errno);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return FileError(path, "examine", errno);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  if (info.st_size <= 0) return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));

  std::unique_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->size_ = static_cast<size_t>(info.st_size);
  void* map = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) return FileError(path, "map", errno);
  file->map_ = map;
  return file;
}

MappedFile::~MappedFile() {
  if (map_ != nullptr) munmap(map_, size_);
}

void MappedFile::DropPages(std::span<const uint8_t> data) const {
  if (data.empty()) return;
  const auto* base = static_cast<const uint8_t*>(map_);
  CHECK(data.data() >= base && data.data() + data.size() <= base + size_) << "not a part of " << path_;
  // Whole pages only: the edges may belong to a neighbour that is still wanted.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t begin = (static_cast<size_t>(data.data() - base) + page - 1) / page * page;
  const size_t end = static_cast<size_t>(data.data() - base + static_cast<ptrdiff_t>(data.size())) / page * page;
  if (begin >= end) return;
  // Advice only: a clean private file mapping is read again from the file when it is touched.
  const int result = madvise(static_cast<uint8_t*>(map_) + begin, end - begin, MADV_DONTNEED);
  CHECK_EQ(result, 0) << std::strerror(errno);
}

}  // namespace dunlin::model
