// The host tier's memory: whole KV pages as records with a checksum, in an anonymous mapping or in a file.
// Record: a header of 64 bytes, then the page's bytes as they are. The header names the format, the page layout, the
// slot and how often the slot was written, so a record that is damaged, foreign, stale or torn is never taken for the
// page. A record holds no page id: it comes back into any page.
//     magic u64 | version u32 | crc32c of the page u32 | layout id u64 | page bytes u64 | slot u64 | generation u64 |
//     0…
// Thread-safety: engine thread only.  Owns: the mapping or the file, 8 bytes per slot.  The file is unlinked at once:
// nothing is left behind when the process ends, however it ends.
// Errors: Create: kInvalidArgument for an impossible size; kResourceExhausted naming bytes and place. Save:
// kOutOfRange; kUnavailable (I/O), and the slot holds nothing then. Load: kOutOfRange; kDataLoss saying what is wrong
// with the record; kUnavailable (I/O). Cost: one copy and one checksum of a page.  Source: ours.
#ifndef DUNLIN_WORKER_RUNNERS_SWAP_ARENA_H_
#define DUNLIN_WORKER_RUNNERS_SWAP_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dunlin::worker {

class SwapArena {
 public:
  static constexpr size_t kHeaderBytes = 64;

  struct Options {
    uint64_t page_bytes = 0;
    int32_t num_slots = 0;
    uint64_t layout_id = 0;  // of the bytes in a page; records of another layout are refused
    std::string directory;   // of the file; empty = memory
  };

  // Slots that `bytes` hold.
  static int32_t SlotsIn(uint64_t bytes, uint64_t page_bytes);

  static absl::StatusOr<std::unique_ptr<SwapArena>> Create(const Options& options);
  virtual ~SwapArena() = default;
  SwapArena(const SwapArena&) = delete;
  SwapArena& operator=(const SwapArena&) = delete;

  // page: page_bytes long.
  absl::Status Save(int32_t slot, std::span<const uint8_t> page);
  // *page holds anything when this fails.
  absl::Status Load(int32_t slot, std::span<uint8_t> page);

  int32_t num_slots() const { return options_.num_slots; }

  // For tests: raw access to the bytes of all records, to damage them; offset from the start of the arena.
  uint64_t TEST_record_bytes() const { return record_bytes_; }
  absl::Status TEST_ReadRaw(uint64_t offset, std::span<uint8_t> to) { return Read(offset, to); }
  absl::Status TEST_WriteRaw(uint64_t offset, std::span<const uint8_t> from) { return Write(offset, from); }
  virtual int TEST_file() const { return -1; }

 protected:
  explicit SwapArena(const Options& options);
  virtual absl::Status Write(uint64_t offset, std::span<const uint8_t> from) = 0;
  virtual absl::Status Read(uint64_t offset, std::span<uint8_t> to) = 0;

 private:
  absl::Status CheckSlot(int32_t slot, size_t page_bytes) const;

  const Options options_;
  const uint64_t record_bytes_;
  std::vector<uint64_t> generation_;  // of each slot's latest record; 0 = holds nothing
  uint64_t writes_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_SWAP_ARENA_H_
