#include "kernels/cpu/arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kChunkBytes = size_t{256} << 20;
constexpr size_t kAlign = 64;

constexpr size_t RoundUp(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) munmap(chunk.mapping, chunk.mapping_bytes);
}

uint8_t* Arena::Allocate(size_t bytes) {
  const size_t need = RoundUp(bytes + kAlign, kAlign);
  if (chunks_.empty() || chunks_.back().capacity - chunks_.back().used < need) {
    const size_t capacity = RoundUp(std::max(need, kChunkBytes), kHugePage);
    const size_t mapping_bytes = capacity + kHugePage;
    // Not reserved: a chunk larger than its contents costs address space alone.
    void* mapping =
        mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(mapping != MAP_FAILED) << "mmap of " << mapping_bytes << " bytes failed";
    const auto address = reinterpret_cast<uintptr_t>(mapping);
    auto* begin = static_cast<uint8_t*>(mapping) + (RoundUp(address, kHugePage) - address);
    // Advice: a kernel without huge pages refuses it and nothing else changes.
    (void)madvise(begin, capacity, MADV_HUGEPAGE);
    chunks_.push_back({mapping, mapping_bytes, begin, 0, capacity});
  }
  Chunk& chunk = chunks_.back();
  uint8_t* result = chunk.begin + chunk.used;
  chunk.used += need;
  allocated_bytes_ += bytes;
  return result;
}

}  // namespace dunlin::kernels::cpu
