// The memory behind the pages of a host backend: one mapping, huge pages where the system gives them, touched only when
// used; and the carrying out of page moves in it. Thread-safety: engine thread only.  Owns: the mapping.
// Errors (Create): kResourceExhausted with the size.
#ifndef DUNLIN_WORKER_RUNNERS_KV_ARENA_H_
#define DUNLIN_WORKER_RUNNERS_KV_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/paged_kv.h"
#include "kvstore/kv_types.h"
#include "worker/runners/swap_arena.h"

namespace dunlin::worker {

class KvArena {
 public:
  static absl::StatusOr<KvArena> Create(const kernels::PageLayout& layout, int32_t num_pages);
  KvArena() = default;
  KvArena(KvArena&& other) noexcept;
  KvArena& operator=(KvArena&& other) noexcept;
  ~KvArena();

  const kernels::PagedKvView& view() const { return view_; }

 private:
  kernels::PagedKvView view_;
  size_t bytes_ = 0;
};

// As ModelRunner::MovePages. swap: may be nullptr when no move names a host slot.
void MovePages(const kernels::PagedKvView& kv, SwapArena* swap, std::span<const kv::PageMove> moves,
               std::vector<int32_t>* failed_pages);

// Names what the bytes of a page mean; equal for equal layouts only.
uint64_t LayoutId(const kernels::PageLayout& layout);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_KV_ARENA_H_
