// The host's side of sampler.h: the parameters of some rows of logits on their way to the device, the results on their
// way back. Two calls may be under way at a time, each with staging of its own.
// Thread-safety: as runtime.h.  Owns: the arrays on both sides; borrows the device.
// Errors: ok() is false where memory ran out at first; later (longer lists than ever before) the device's error says
// it; CHECK on more rows than it was made for. Cost: four copies to the device, one back; lists grow by doubling (which
// waits for the stream).  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ROW_DRAWS_H_
#define DUNLIN_KERNELS_CUDA_ROW_DRAWS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

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

  // Draws one token per row; the results are on their way. The call before the one before must be finished. What
  // params point to may go at once. logits: [params.size(), vocab]. drawn: device memory, [params.size()], the tokens.
  void Start(const float* logits, int vocab, std::span<const SampleParams> params, int32_t* drawn);
  // The results of the oldest call that is not finished, once the stream has done it. results: as many as its params.
  void Finish(std::span<SampleResult> results);

 private:
  // The same array on both sides; the host's twice.
  template <typename T>
  struct Twin {
    std::array<PinnedBuffer<T>, 2> host;
    DeviceBuffer<T> device;
    bool ok() const { return host[0].data() != nullptr && host[1].data() != nullptr && device.data() != nullptr; }
  };
  template <typename T>
  Twin<T> MakeTwin(size_t count) {
    return {{PinnedBuffer<T>(device_, count), PinnedBuffer<T>(device_, count)}, DeviceBuffer<T>(device_, count)};
  }
  // False: memory ran out.
  template <typename T>
  bool Grow(size_t count, Twin<T>* twin);
  template <typename T>
  void Copy(const Twin<T>& twin, size_t count) {
    device_->CopyToDevice(twin.device.data(), twin.host[start_ % 2].data(), count * sizeof(T));
  }

  Device* device_ = nullptr;
  int max_rows_ = 0;
  uint64_t start_ = 0, finish_ = 0;  // calls so far; a call's staging is its number's parity
  Twin<DeviceSampleParams> params_;
  Twin<DeviceSampleResult> results_;
  Twin<TokenCount> counts_;
  Twin<TokenBias> biases_;
  Twin<int32_t> ids_;
  DeviceBuffer<float> scratch_;  // [max_rows, vocab]
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ROW_DRAWS_H_
