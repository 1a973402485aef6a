#include "worker/runners/kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

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

void MovePages(const kernels::PagedKvView& kv, SwapArena* swap, std::span<const kv::PageMove> moves,
               std::vector<int32_t>* failed_pages) {
  failed_pages->clear();
  const size_t bytes = kv.layout.page_bytes;
  const auto page = [&kv](int32_t id) {
    CHECK(id >= 0 && id < kv.num_pages) << "page " << id;
    return kv.page(id);
  };
  for (const kv::PageMove& m : moves) {
    CHECK(m.kind == kv::PageMove::Kind::kCopy || swap != nullptr) << "a move to a host tier that is not there";
    switch (m.kind) {
      case kv::PageMove::Kind::kCopy:
        std::memcpy(page(m.to), page(m.from), bytes);
        break;
      case kv::PageMove::Kind::kSave:
        // A record that could not be written holds nothing, which its kRestore finds.
        swap->Save(m.to, {page(m.from), bytes}).IgnoreError();
        break;
      case kv::PageMove::Kind::kRestore:
        if (!swap->Load(m.from, {page(m.to), bytes}).ok()) failed_pages->push_back(m.to);
        break;
    }
  }
}

uint64_t LayoutId(const kernels::PageLayout& layout) {
  // Every field has a place of its own: 8 bits for the formats, 10 for the tokens, 14 for the others, 1 for the order.
  CHECK(layout.page_tokens < (1 << 10) && layout.num_layers < (1 << 14) && layout.num_kv_heads < (1 << 14) &&
        layout.head_dim < (1 << 14));
  const auto field = [](int value, int shift) { return static_cast<uint64_t>(value) << shift; };
  return field(static_cast<int>(layout.k_format), 0) | field(static_cast<int>(layout.v_format), 4) |
         field(layout.page_tokens, 8) | field(layout.num_layers, 18) | field(layout.num_kv_heads, 32) |
         field(layout.head_dim, 46) | field(static_cast<int>(layout.order), 60);
}

}  // namespace dunlin::worker
