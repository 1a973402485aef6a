// The CUDA backend: the ops of kernels/ops.h on device memory. worker/transformer.h writes the network over it.
//
// Every float*, x to logits, is device memory; weights, norms and biases are what Pack and Upload returned. The step's
// batch is what BeginStep was given: the BatchView that the ops take is its host copy and is read for the Traffic only,
// so that what the ops launch can be recorded once and replayed for other batches of the same bucket. The saturated
// values are counted on the device: the ops leave *saturated alone; FetchSaturated brings the step's sum.
//
// Thread-safety: as runtime.h.  Owns: packed weights, scratch; borrows the device.  Errors: the device's sticky one;
// out_of_memory() after Pack, Upload and Reserve, whose results may then not be used; CHECK on shapes that contradict
// each other. Traffic: as ops.h. Cost: 11 launches a layer. Nothing allocates after Reserve but room for longer
// sampling lists than there were before.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_CUDA_OPS_H_
#define DUNLIN_KERNELS_CUDA_CUDA_OPS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/prepare.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/row_draws.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cuda {

// Floats on the device, in the ops' arena.
class DeviceVector {
 public:
  DeviceVector() = default;
  DeviceVector(const float* data, size_t size) : data_(data), size_(size) {}
  const float* data() const { return data_; }
  bool empty() const { return size_ == 0; }

 private:
  const float* data_ = nullptr;
  size_t size_ = 0;
};

class CudaOps {
 public:
  using Matrix = CudaMatrix;
  using Vector = DeviceVector;

  // max_sequences: of one step.
  CudaOps(Device* device, int max_sequences) : device_(device), arena_(device), max_sequences_(max_sequences) {}

  Device* device() const { return device_; }
  uint64_t packed_bytes() const { return arena_.allocated_bytes(); }
  bool out_of_memory() const { return out_of_memory_; }
  const OpLimits& limits() const { return limits_; }  // of Reserve

  Matrix Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes);
  Vector Upload(std::span<const float> values) { return {UploadArray(values), values.size()}; }
  // nullptr for no values, and where memory ran out.
  template <typename T>
  const T* UploadArray(std::span<const T> values) {
    return static_cast<const T*>(UploadBytes(values.data(), values.size_bytes()));
  }
  void Reserve(const OpLimits& limits);
  // Of device memory that Reserve takes.
  static uint64_t ScratchBytes(const Device& device, const OpLimits& limits, int max_sequences);

  // What the ops until the next BeginStep work on.
  struct Step {
    DeviceBatch batch;
    BatchView view;                        // the same on the host, for the Traffic
    std::span<const int32_t> output_rows;  // likewise
    bool has_prefill = false;              // sequences of kPrefillRows rows or more
    bool launch = true;                    // false: the ops only count their Traffic (a graph does the work)
  };
  void BeginStep(const Step& step, const AttentionShape& shape, const PagedKvView& kv);
  // Brings the step's sum to `to`, which is pinned.
  void FetchSaturated(uint32_t* to);

  Traffic Embed(const Matrix& table, const BatchView& batch, float scale, float* x);
  Traffic AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape, const BatchView& batch,
                         const PagedKvView& kv, const float* x, float* q, int64_t* saturated);
  Traffic PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                         const float* q, float* out);
  Traffic ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual);
  Traffic GatedFfn(const Matrix& gate, const Matrix& up, const float* norm, float eps, FfnActivation activation,
                   int num_rows, const float* x, float* out);
  // rows: a part of the step's output_rows. Not for graphs: how many rows there are is the host's knowledge here.
  Traffic Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows, const float* x,
                 float* logits);
  // Waits for the stream. StartSample does all but that and the results (row_draws.h); FinishSample does these.
  Traffic Sample(const float* logits, int vocab, std::span<const SampleParams> params, std::span<SampleResult> results);
  // first_output: which of the step's outputs the first of these is, for the next step's from_previous.
  Traffic StartSample(const float* logits, int vocab, std::span<const SampleParams> params, size_t first_output);
  void FinishSample(std::span<SampleResult> results) { draws_.Finish(results); }

 private:
  const void* UploadBytes(const void* bytes, size_t size);
  PreparedRows PrepareFor(const Matrix& w, RowsToPrepare from, int rows, const int32_t* num_rows);

  Device* device_;
  WeightArena arena_;
  bool out_of_memory_ = false;

  int max_sequences_;
  OpLimits limits_;
  AttentionLimits attention_limits_;
  PreparedBuffer prepared_;
  DeviceBuffer<float> k_, v_;  // [max_rows, num_kv_heads * head_dim]
  DeviceBuffer<uint8_t> attention_workspace_;
  DeviceBuffer<uint32_t> saturated_;
  RowDraws draws_;
  DeviceBuffer<int32_t> drawn_;  // [max_rows] tokens of the outputs of the last step that had some

  Step step_;
  Traffic layer_kv_;  // KV bytes of one layer of the step
};

static_assert(TransformerOps<CudaOps>);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_CUDA_OPS_H_
