// Host memory that copies to and from a device run with, of one kind of value; frees itself.
// Thread-safety: as runtime.h.  Owns: the memory; borrows the device.  Errors: empty where memory ran out: ask
// `data() != nullptr`. Its content may change only when the copies from it are done.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PINNED_BUFFER_H_
#define DUNLIN_KERNELS_CUDA_PINNED_BUFFER_H_

#include <cstddef>
#include <span>
#include <utility>

#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {

template <typename T>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(Device* device, size_t count)
      : device_(device),
        data_(static_cast<T*>(device->AllocatePinned(count * sizeof(T)))),
        size_(data_ != nullptr ? count : 0) {}
  PinnedBuffer(PinnedBuffer&& o) noexcept { *this = std::move(o); }
  PinnedBuffer& operator=(PinnedBuffer&& o) noexcept {
    std::swap(device_, o.device_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~PinnedBuffer() {
    if (data_ != nullptr) device_->FreePinned(data_);
  }
  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<T> span() const { return {data_, size_}; }

 private:
  Device* device_ = nullptr;
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PINNED_BUFFER_H_
