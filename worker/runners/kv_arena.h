// The memory behind the pages of a host backend: one mapping, huge pages where the system gives them, touched only when
// used. Thread-safety: engine thread only.  Owns: the mapping.  Errors (Create): kResourceExhausted with the size.
#ifndef DUNLIN_WORKER_RUNNERS_KV_ARENA_H_
#define DUNLIN_WORKER_RUNNERS_KV_ARENA_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/paged_kv.h"

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

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_KV_ARENA_H_
