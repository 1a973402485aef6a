// runtime.h on the CUDA runtime.
#include <cuda_runtime.h>

#include <cstring>
#include <map>

#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {
namespace {

class CudaDevice final : public Device {
 public:
  // False: *why says what failed.
  bool Init(int ordinal, std::string* why) {
    info_.ordinal = ordinal;
    cudaDeviceProp properties;
    if (!Done(cudaSetDevice(ordinal), "cudaSetDevice") ||
        !Done(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties") ||
        !Done(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate")) {
      *why = error();
      return false;
    }
    for (cudaEvent_t& event : events_) Done(cudaEventCreate(&event), "cudaEventCreate");
    info_.name = properties.name;
    info_.uuid = Uuid(properties.uuid);
    info_.compute_capability = properties.major * 10 + properties.minor;
    info_.num_sms = properties.multiProcessorCount;
    info_.l2_bytes = static_cast<size_t>(properties.l2CacheSize);
    info_.shared_bytes_per_block = properties.sharedMemPerBlockOptin;
    info_.total_bytes = properties.totalGlobalMem;
    info_.unified_memory = properties.integrated != 0;
    if (!ok()) *why = error();
    return ok();
  }
  ~CudaDevice() override {
    cudaStreamSynchronize(stream_);
    for (const auto& [id, graph] : graphs_) cudaGraphExecDestroy(graph);
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  uint64_t FreeBytes() override {
    size_t free = 0, total = 0;
    Done(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return free;
  }
  void* Allocate(size_t bytes) override {
    return Obtain(bytes, [](void** p, size_t n) { return cudaMalloc(p, n); });
  }
  void Free(void* p) override { cudaFree(p); }
  void* AllocatePinned(size_t bytes) override {
    return Obtain(bytes, [](void** p, size_t n) { return cudaMallocHost(p, n); });
  }
  void FreePinned(void* p) override { cudaFreeHost(p); }

  void CopyToDevice(void* to, const void* from, size_t bytes) override {
    Copy(to, from, bytes, cudaMemcpyHostToDevice, "copy to the device");
  }
  void CopyToHost(void* to, const void* from, size_t bytes) override {
    Copy(to, from, bytes, cudaMemcpyDeviceToHost, "copy to the host");
  }
  void CopyOnDevice(void* to, const void* from, size_t bytes) override {
    Copy(to, from, bytes, cudaMemcpyDeviceToDevice, "copy on the device");
  }
  void Fill(void* to, uint8_t byte, size_t bytes) override {
    if (ok() && bytes > 0) Done(cudaMemsetAsync(to, byte, bytes, stream_), "cudaMemsetAsync");
  }
  void Synchronize() override {
    if (ok()) Done(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  void BeginCapture() override {
    if (ok()) Done(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  }
  int EndCapture() override {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t instance = nullptr;
    const bool ended = Done(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
    if (ended) Done(cudaGraphInstantiate(&instance, graph, 0), "cudaGraphInstantiate");
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (!ok() || instance == nullptr) return -1;
    graphs_[next_graph_] = instance;
    return next_graph_++;
  }
  void LaunchGraph(int graph) override {
    if (ok()) Done(cudaGraphLaunch(graphs_.at(graph), stream_), "cudaGraphLaunch");
  }
  void DropGraph(int graph) override {
    const auto it = graphs_.find(graph);
    if (it == graphs_.end()) return;
    cudaGraphExecDestroy(it->second);
    graphs_.erase(it);
  }

  void Record(int event) override {
    if (ok()) Done(cudaEventRecord(events_[event], stream_), "cudaEventRecord");
  }
  void Wait(int event) override {
    if (ok()) Done(cudaEventSynchronize(events_[event]), "cudaEventSynchronize");
  }
  double Elapsed(int from, int to) override {
    float milliseconds = 0;
    Wait(to);
    if (ok()) Done(cudaEventElapsedTime(&milliseconds, events_[from], events_[to]), "cudaEventElapsedTime");
    return static_cast<double>(milliseconds) / 1000;
  }

  void* native_stream() override { return stream_; }
  void Enqueue(std::function<void()>) override { Fail("Enqueue is the emulator's"); }

 private:
  bool Done(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return true;
    Fail(std::string(what) + ": " + cudaGetErrorString(error));
    return false;
  }
  template <typename Get>
  void* Obtain(size_t bytes, const Get& get) {
    void* p = nullptr;
    if (!ok() || bytes == 0) return nullptr;
    const cudaError_t error = get(&p, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // expected: not an error of the device
      return nullptr;
    }
    return Done(error, "allocation") ? p : nullptr;
  }
  void Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* what) {
    if (ok() && bytes > 0) Done(cudaMemcpyAsync(to, from, bytes, kind, stream_), what);
  }
  static std::string Uuid(const cudaUUID_t& uuid) {
    constexpr char kHex[] = "0123456789abcdef";
    std::string out = "GPU-";
    for (int i = 0; i < 16; ++i) {
      if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
      const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
      out += {kHex[byte >> 4], kHex[byte & 15]};
    }
    return out;
  }

  cudaStream_t stream_ = nullptr;
  cudaEvent_t events_[kEvents] = {};
  std::map<int, cudaGraphExec_t> graphs_;
  int next_graph_ = 0;
};

}  // namespace

int Device::Count(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    *why = error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary
               ? "there is no NVIDIA driver, or one too old for CUDA 13"
               : std::string("CUDA finds no device: ") + cudaGetErrorString(error);
    return 0;
  }
  if (count == 0) *why = "no CUDA device is visible (CUDA_VISIBLE_DEVICES?)";
  return count;
}

std::unique_ptr<Device> Device::Open(int ordinal, std::string* why) {
  auto device = std::make_unique<CudaDevice>();
  if (!device->Init(ordinal, why)) return nullptr;
  return device;
}

}  // namespace dunlin::kernels::cuda
