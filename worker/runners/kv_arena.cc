#include "worker/runners/kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace dunlin::worker {

absl::StatusOr<KvArena> KvArena::Create(const kernels::PageLayout& layout, int32_t num_pages) {
  KvArena arena;
  arena.bytes_ = layout.page_bytes * static_cast<size_t>(num_pages);
  void* base = mmap(nullptr, arena.bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    arena.bytes_ = 0;
    return absl::ResourceExhaustedError(absl::StrCat("cannot map ", layout.page_bytes * static_cast<size_t>(num_pages),
                                                     " bytes for the KV pages: ", std::strerror(error)));
  }
  // Only a request: without transparent huge pages the arena works, with more TLB misses.
  madvise(base, arena.bytes_, MADV_HUGEPAGE);
  arena.view_ = {static_cast<uint8_t*>(base), layout, num_pages};
  return arena;
}

KvArena::KvArena(KvArena&& other) noexcept
    : view_(std::exchange(other.view_, {})), bytes_(std::exchange(other.bytes_, 0)) {}

KvArena& KvArena::operator=(KvArena&& other) noexcept {
  std::swap(view_, other.view_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

KvArena::~KvArena() {
  if (bytes_ != 0) munmap(view_.base, bytes_);
}

}  // namespace dunlin::worker
