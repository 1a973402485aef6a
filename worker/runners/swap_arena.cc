#include "worker/runners/swap_arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/runners/crc32c.h"

namespace dunlin::worker {
namespace {

constexpr uint64_t kMagic = 0x45474150'4E4C4E44u;  // "DNLNPAGE", little-endian
constexpr uint32_t kVersion = 1;
constexpr uint64_t kAlignment = 64;

struct Header {
  uint64_t magic = kMagic;
  uint32_t version = kVersion;
  uint32_t crc = 0;
  uint64_t layout_id = 0;
  uint64_t page_bytes = 0;
  uint64_t slot = 0;
  uint64_t generation = 0;
  uint64_t reserved[2] = {};
};
static_assert(sizeof(Header) == SwapArena::kHeaderBytes);

uint64_t RecordBytes(uint64_t page_bytes) {
  return (page_bytes + SwapArena::kHeaderBytes + kAlignment - 1) / kAlignment * kAlignment;
}

std::span<uint8_t> BytesOf(Header* header) { return {reinterpret_cast<uint8_t*>(header), sizeof *header}; }

// What keeps `got` from being the record that was written last; nullptr when it is.
const char* Defect(const Header& got, const Header& want) {
  if (got.magic != want.magic) return "no record (magic)";
  if (got.version != want.version) return "another format version";
  if (got.layout_id != want.layout_id || got.page_bytes != want.page_bytes) return "another page layout";
  if (got.slot != want.slot) return "another slot's record";
  if (got.generation != want.generation) return "an older record";
  if (got.reserved[0] != 0 || got.reserved[1] != 0) return "a damaged header";
  if (got.crc != want.crc) return "a damaged page (CRC-32C)";
  return nullptr;
}

class MemoryArena final : public SwapArena {
 public:
  MemoryArena(const Options& options, uint8_t* base, uint64_t bytes) : SwapArena(options), base_(base), bytes_(bytes) {}
  ~MemoryArena() override { munmap(base_, bytes_); }

 private:
  absl::Status Write(uint64_t offset, std::span<const uint8_t> from) override {
    CHECK(offset <= bytes_ && from.size() <= bytes_ - offset) << offset;
    std::memcpy(base_ + offset, from.data(), from.size());
    return absl::OkStatus();
  }
  absl::Status Read(uint64_t offset, std::span<uint8_t> to) override {
    CHECK(offset <= bytes_ && to.size() <= bytes_ - offset) << offset;
    std::memcpy(to.data(), base_ + offset, to.size());
    return absl::OkStatus();
  }

  uint8_t* const base_;
  const uint64_t bytes_;
};

// By pread and pwrite: a file that lost its end gives an error here, where a mapping would give a signal.
class FileArena final : public SwapArena {
 public:
  FileArena(const Options& options, int fd) : SwapArena(options), fd_(fd) {}
  ~FileArena() override { close(fd_); }
  int TEST_file() const override { return fd_; }

 private:
  absl::Status Write(uint64_t offset, std::span<const uint8_t> from) override {
    return Transfer("write", offset, from.size(),
                    [&](size_t at, off_t to) { return pwrite(fd_, from.data() + at, from.size() - at, to); });
  }
  absl::Status Read(uint64_t offset, std::span<uint8_t> to) override {
    return Transfer("read", offset, to.size(),
                    [&](size_t at, off_t from) { return pread(fd_, to.data() + at, to.size() - at, from); });
  }

  template <typename Call>
  static absl::Status Transfer(const char* what, uint64_t offset, size_t bytes, const Call& call) {
    for (size_t done = 0; done < bytes;) {
      const ssize_t n = call(done, static_cast<off_t>(offset + done));
      if (n > 0) {
        done += static_cast<size_t>(n);
      } else if (n == 0 || errno != EINTR) {
        return absl::UnavailableError(absl::StrCat("cannot ", what, " the swap file at byte ", offset + done, ": ",
                                                   n == 0 ? "it ends there" : std::strerror(errno)));
      }
    }
    return absl::OkStatus();
  }

  const int fd_;
};

absl::Status NoRoom(uint64_t bytes, absl::string_view place, int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no room for a swap space of ", bytes, " bytes in ", place, ": ", std::strerror(error)));
}

absl::StatusOr<int> OpenFile(const std::string& directory, uint64_t bytes) {
  std::string path = absl::StrCat(directory, "/dunlin-swap-XXXXXX");
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return NoRoom(bytes, directory, errno);
  unlink(path.c_str());
  // Now, not in the middle of serving, is when a full disk should be found. Not every file system can promise it.
  int error = fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  if (error == EOPNOTSUPP) error = ftruncate(fd, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  if (error == 0) return fd;
  close(fd);
  return NoRoom(bytes, directory, error);
}

}  // namespace

int32_t SwapArena::SlotsIn(uint64_t bytes, uint64_t page_bytes) {
  return static_cast<int32_t>(std::min<uint64_t>(bytes / RecordBytes(page_bytes), INT32_MAX));
}

absl::StatusOr<std::unique_ptr<SwapArena>> SwapArena::Create(const Options& options) {
  if (options.page_bytes == 0 || options.page_bytes > (uint64_t{1} << 40) || options.num_slots < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("swap space: ", options.num_slots, " records of ", options.page_bytes, " bytes"));
  }
  const auto slots = static_cast<uint64_t>(options.num_slots);
  const uint64_t record = RecordBytes(options.page_bytes);
  if (record > uint64_t{INT64_MAX} / slots) {
    return absl::InvalidArgumentError(absl::StrCat("swap space: ", slots, " records of ", record, " bytes"));
  }
  const uint64_t bytes = record * slots;
  if (!options.directory.empty()) {
    ASSIGN_OR_RETURN(const int fd, OpenFile(options.directory, bytes));
    return std::make_unique<FileArena>(options, fd);
  }
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return NoRoom(bytes, "memory", errno);
  return std::make_unique<MemoryArena>(options, static_cast<uint8_t*>(base), bytes);
}

SwapArena::SwapArena(const Options& options)
    : options_(options),
      record_bytes_(RecordBytes(options.page_bytes)),
      generation_(static_cast<size_t>(options.num_slots), 0) {}

absl::Status SwapArena::CheckSlot(int32_t slot, size_t page_bytes) const {
  if (slot < 0 || slot >= options_.num_slots) {
    return absl::OutOfRangeError(absl::StrCat("swap slot ", slot, " of ", options_.num_slots));
  }
  if (page_bytes != options_.page_bytes) {
    return absl::OutOfRangeError(absl::StrCat("a page of ", page_bytes, " bytes, not ", options_.page_bytes));
  }
  return absl::OkStatus();
}

absl::Status SwapArena::Save(int32_t slot, std::span<const uint8_t> page) {
  RETURN_IF_ERROR(CheckSlot(slot, page.size()));
  const auto index = static_cast<size_t>(slot);
  generation_[index] = 0;  // until all of it is written
  Header header;
  header.crc = Crc32c(page);
  header.layout_id = options_.layout_id;
  header.page_bytes = options_.page_bytes;
  header.slot = static_cast<uint64_t>(slot);
  header.generation = ++writes_;
  const uint64_t offset = index * record_bytes_;
  RETURN_IF_ERROR(Write(offset, BytesOf(&header)));
  RETURN_IF_ERROR(Write(offset + kHeaderBytes, page));
  generation_[index] = header.generation;
  return absl::OkStatus();
}

absl::Status SwapArena::Load(int32_t slot, std::span<uint8_t> page) {
  RETURN_IF_ERROR(CheckSlot(slot, page.size()));
  const auto index = static_cast<size_t>(slot);
  if (generation_[index] == 0) return absl::DataLossError(absl::StrCat("swap slot ", slot, " holds nothing"));
  const uint64_t offset = index * record_bytes_;
  Header got;
  RETURN_IF_ERROR(Read(offset, BytesOf(&got)));
  RETURN_IF_ERROR(Read(offset + kHeaderBytes, page));
  Header want;
  want.crc = Crc32c(page);
  want.layout_id = options_.layout_id;
  want.page_bytes = options_.page_bytes;
  want.slot = static_cast<uint64_t>(slot);
  want.generation = generation_[index];
  const char* const defect = Defect(got, want);
  if (defect == nullptr) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("swap slot ", slot, ": ", defect));
}

}  // namespace dunlin::worker
