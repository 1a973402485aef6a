// The host's side of a device: memory, copies, graphs, events, on one stream. Two libraries define it: cuda_device
// (runtime_cuda.cu, the CUDA runtime) and cuda_emulated (emulator/runtime_emulated.cc); everything above links either.
// No CUDA header is needed to include this.
//
// Thread-safety: one caller at a time per Device.  Owns: the stream; memory is the caller's to free (DeviceBuffer
// does). Errors: sticky, as CUDA's are: the first failure is kept in error(), later calls do nothing, so a caller
// issues a whole step and asks once. Out of memory is a return value and not sticky. Cost: Copy*, Fill, Record and
// launches are asynchronous, in stream order; Synchronize, Elapsed and Allocate wait. The emulator does everything at
// once. Source: CUDA runtime API; ours.
#ifndef DUNLIN_KERNELS_CUDA_RUNTIME_H_
#define DUNLIN_KERNELS_CUDA_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace dunlin::kernels::cuda {

struct DeviceInfo {
  int ordinal = 0;
  std::string name;            // "NVIDIA H200", "emulator"
  std::string uuid;            // empty where there is none
  int compute_capability = 0;  // 87, 89, 90, 100, 120
  int num_sms = 0;
  size_t l2_bytes = 0;
  size_t shared_bytes_per_block = 0;  // the most a launch may ask for
  uint64_t total_bytes = 0;
  bool unified_memory = false;  // the device's memory is the host's (Jetson)
};

class Device {
 public:
  // Devices that CUDA_VISIBLE_DEVICES (or a MIG slice) leaves this process. 0: *why says why, as a sentence for users.
  static int Count(std::string* why);
  // nullptr: *why says why.
  static std::unique_ptr<Device> Open(int ordinal, std::string* why);
  virtual ~Device() = default;

  const DeviceInfo& info() const { return info_; }
  bool ok() const { return error_.empty(); }
  const std::string& error() const { return error_; }
  // Keeps the first.
  void Fail(const std::string& what) {
    if (error_.empty()) error_ = what;
  }

  // Free memory of the device now, in bytes.
  virtual uint64_t FreeBytes() = 0;
  // 256-byte aligned, not initialised. nullptr: not that much left.
  virtual void* Allocate(size_t bytes) = 0;
  virtual void Free(void* p) = 0;
  // Host memory that copies run from and to without a stop.
  virtual void* AllocatePinned(size_t bytes) = 0;
  virtual void FreePinned(void* p) = 0;

  virtual void CopyToDevice(void* to, const void* from, size_t bytes) = 0;
  virtual void CopyToHost(void* to, const void* from, size_t bytes) = 0;
  virtual void CopyOnDevice(void* to, const void* from, size_t bytes) = 0;
  virtual void Fill(void* to, uint8_t byte, size_t bytes) = 0;
  virtual void Synchronize() = 0;

  // Between these the stream records instead of running. Ids are small and live until DropGraph. -1: failed.
  virtual void BeginCapture() = 0;
  virtual int EndCapture() = 0;
  virtual void LaunchGraph(int graph) = 0;
  virtual void DropGraph(int graph) = 0;

  // Events 0 … kEvents - 1. Elapsed: seconds from one recorded event to another; waits for the second.
  static constexpr int kEvents = 8;
  virtual void Record(int event) = 0;
  virtual void Wait(int event) = 0;  // the host waits for it
  virtual double Elapsed(int from, int to) = 0;

  // For launch.h.
  virtual void* native_stream() = 0;                     // CUDA: cudaStream_t; emulator: nullptr
  virtual void Enqueue(std::function<void()> work) = 0;  // emulator only: now, or when its graph is launched

 protected:
  DeviceInfo info_;

 private:
  std::string error_;
};

// Memory of one kind of value that frees itself: the device's, or pinned memory of the host. Empty where memory ran
// out: ask `data() != nullptr`.
enum class Place { kDevice, kPinned };
template <typename T, Place kPlace>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device* device, size_t count)
      : device_(device),
        data_(static_cast<T*>(Obtain(device, count * sizeof(T)))),
        size_(data_ != nullptr ? count : 0) {}
  Buffer(Buffer&& o) noexcept { *this = std::move(o); }
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(device_, o.device_);
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~Buffer() {
    if (data_ == nullptr) return;
    if constexpr (kPlace == Place::kDevice) {
      device_->Free(data_);
    } else {
      device_->FreePinned(data_);
    }
  }
  T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

 private:
  static void* Obtain(Device* device, size_t bytes) {
    return kPlace == Place::kDevice ? device->Allocate(bytes) : device->AllocatePinned(bytes);
  }

  Device* device_ = nullptr;
  T* data_ = nullptr;
  size_t size_ = 0;
};
template <typename T>
using DeviceBuffer = Buffer<T, Place::kDevice>;
// What copies read from it may change only when they are done.
template <typename T>
using PinnedBuffer = Buffer<T, Place::kPinned>;

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_RUNTIME_H_
