#include "model/gguf/gguf_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "model/gguf/gguf_types.h"

namespace dunlin::model {
namespace {

absl::Status WrongType(absl::string_view key, const GgufValue& value, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF: key ", Quoted(key), " has type ", GgufTypeName(value.type), "; ", wanted, " is wanted"));
}

absl::Status Missing(absl::string_view key) {
  return absl::NotFoundError(absl::StrCat("GGUF: key ", Quoted(key), " is missing"));
}

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

size_t GgufValue::array_size() const { return strings.size() + floats.size() + integers.size(); }

int64_t GgufTensor::num_elements() const {
  int64_t out = 1;
  for (const int64_t d : dims) out *= d;
  return out;
}

int64_t GgufTensor::cols() const { return dims.front(); }
int64_t GgufTensor::rows() const { return num_elements() / cols(); }

const GgufValue* Gguf::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::StatusOr<int64_t> Gguf::GetInt(absl::string_view key, int64_t min, int64_t max) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  const auto out_of_range = [&](auto number) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF: key ", Quoted(key), " is ", number, "; ", min, " to ", max, " is allowed"));
  };
  int64_t out = 0;
  if (const auto* big = std::get_if<uint64_t>(&value->scalar)) {
    if (*big > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return out_of_range(*big);
    out = static_cast<int64_t>(*big);
  } else if (const auto* integer = std::get_if<int64_t>(&value->scalar)) {
    out = *integer;
  } else {
    return WrongType(key, *value, "an integer");
  }
  if (out < min || out > max) return out_of_range(out);
  return out;
}

absl::StatusOr<double> Gguf::GetFloat(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  if (const auto* number = std::get_if<double>(&value->scalar)) return *number;
  return WrongType(key, *value, "f32 or f64");
}

absl::StatusOr<bool> Gguf::GetBool(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  if (const auto* flag = std::get_if<bool>(&value->scalar)) return *flag;
  return WrongType(key, *value, "bool");
}

absl::StatusOr<absl::string_view> Gguf::GetString(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return Missing(key);
  if (const auto* text = std::get_if<absl::string_view>(&value->scalar)) return *text;
  return WrongType(key, *value, "string");
}

absl::StatusOr<int64_t> Gguf::GetIntOr(absl::string_view key, int64_t fallback, int64_t min, int64_t max) const {
  if (Find(key) == nullptr) return fallback;
  return GetInt(key, min, max);
}

absl::StatusOr<double> Gguf::GetFloatOr(absl::string_view key, double fallback) const {
  if (Find(key) == nullptr) return fallback;
  return GetFloat(key);
}

absl::StatusOr<bool> Gguf::GetBoolOr(absl::string_view key, bool fallback) const {
  if (Find(key) == nullptr) return fallback;
  return GetBool(key);
}

const GgufTensor* Gguf::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a pipe by mistake must not wait for a writer.
  const ScopedFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return FileError(path, "open", errno);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return FileError(path, "examine", errno);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  if (info.st_size <= 0) return absl::InvalidArgumentError(absl::StrCat(path, " is empty"));

  std::unique_ptr<GgufFile> file(new GgufFile());
  file->path_ = path;
  file->size_ = static_cast<size_t>(info.st_size);
  void* map = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) return FileError(path, "map", errno);
  file->map_ = map;
  absl::StatusOr<Gguf> gguf = Gguf::Parse({static_cast<const uint8_t*>(map), file->size_});
  if (!gguf.ok()) return absl::Status(gguf.status().code(), absl::StrCat(path, ": ", gguf.status().message()));
  file->gguf_ = *std::move(gguf);
  return file;
}

GgufFile::~GgufFile() {
  if (map_ != nullptr) munmap(map_, size_);
}

void GgufFile::DropPages(std::span<const uint8_t> data) const {
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
