// The host's side of sampler.h: the parameters of some rows of logits on their way to the device, the results on their
// way back. Thread-safety: as runtime.h.  Owns: the arrays on both sides; borrows the device.
// Errors: ok() is false where memory ran out at first; later (longer lists than ever before) the device's error says
// it; CHECK on more rows than it was made for. Cost: four copies to the device, one back; lists grow by doubling.
// Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ROW_DRAWS_H_
#define DUNLIN_KERNELS_CUDA_ROW_DRAWS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/pinned_buffer.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sampler.h"
#include "kernels/sampling.h"

namespace dunlin::kernels::cuda {

class RowDraws {
 public:
  static uint64_t Bytes(int max_rows, int vocab);

  RowDraws() = default;
  RowDraws(Device* device, int max_rows, int vocab);
  bool ok() const;

  // Draws one token per row; the results are on their way. The one before must be done. logits: [params.size(), vocab].
  void Start(const float* logits, int vocab, std::span<const SampleParams> params);
  // Once the stream has done Start.
  void Finish(std::span<const SampleParams> params, std::span<SampleResult> results);

 private:
  // The same array on both sides.
  template <typename T>
  struct Twin {
    PinnedBuffer<T> host;
    DeviceBuffer<T> device;
    bool ok() const { return host.data() != nullptr && device.data() != nullptr; }
  };
  template <typename T>
  Twin<T> MakeTwin(size_t count) {
    return {PinnedBuffer<T>(device_, count), DeviceBuffer<T>(device_, count)};
  }
  // False: memory ran out.
  template <typename T>
  bool Grow(size_t count, Twin<T>* twin);
  template <typename T>
  void Copy(const Twin<T>& twin, size_t count) {
    device_->CopyToDevice(twin.device.data(), twin.host.data(), count * sizeof(T));
  }

  Device* device_ = nullptr;
  int max_rows_ = 0;
  Twin<DeviceSampleParams> params_;
  Twin<DeviceSampleResult> results_;
  Twin<TokenCount> counts_;
  Twin<TokenBias> biases_;
  Twin<int32_t> ids_;
  DeviceBuffer<float> scratch_;  // [max_rows, vocab]
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ROW_DRAWS_H_
