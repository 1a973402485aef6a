// Memory for packed weights: large anonymous mappings, aligned to and advised for 2 MiB pages (4 KiB pages cost a fifth
// of the read bandwidth), handed out 64-byte aligned and zeroed. Pages are committed when first written.
// Thread-safety: none.  Owns all that it handed out, until its destructor.
// Errors: CHECK when the system refuses address space.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_ARENA_H_
#define DUNLIN_KERNELS_CPU_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dunlin::kernels::cpu {

class Arena {
 public:
  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 64-byte aligned and zeroed, with 64 readable bytes after it.
  uint8_t* Allocate(size_t bytes);
  // Sum of what was asked for.
  size_t allocated_bytes() const { return allocated_bytes_; }
  // What was handed out first, as far as it lies in one piece: at most a few hundred MB.
  std::span<const uint8_t> first_piece() const {
    return chunks_.empty() ? std::span<const uint8_t>() : std::span(chunks_.front().begin, chunks_.front().used);
  }

 private:
  struct Chunk {
    void* mapping;
    size_t mapping_bytes;
    uint8_t* begin;  // 2 MiB aligned
    size_t used;
    size_t capacity;
  };
  std::vector<Chunk> chunks_;
  size_t allocated_bytes_ = 0;
};

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ARENA_H_
