// The network on a CUDA device as a ModelRunner.
//
// A step is one upload of its batch, the layers, then logits and draws for the rows that want them, all on one stream;
// the host waits for its results only, and may submit the next step before: what that needs of this one's draws is on
// the device (tokens.h). Whatever the host writes for a step and the stream reads is double. The
// layers of a step without prefill sequences (kPrefillRows) are a recorded graph: one per power of two of rows,
// recorded when a step of that size comes for the second time (the first one loads the kernels), replayed from then on.
// Graphs hold no lengths, page tables or parameters: these are in device memory (device_batch.h).
//
// Thread-safety: engine thread only.  Owns: the device, weights, pages, scratch, graphs, the swap arena.
// Errors: a device that failed stays failed: kUnavailable naming it and its first error. A batch that contradicts the
// limits CHECK-fails.  Cost: host time about 2 us per launch without a graph.  Source: ours.
#ifndef DUNLIN_WORKER_RUNNERS_CUDA_RUNNER_H_
#define DUNLIN_WORKER_RUNNERS_CUDA_RUNNER_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/device_batch.h"
#include "kernels/cuda/runtime.h"
#include "worker/model_runner.h"
#include "worker/runners/swap_arena.h"
#include "worker/transformer.h"

namespace dunlin::worker {

class CudaRunner final : public ModelRunner {
 public:
  // Rows of the largest graph: beyond, a step takes so long that its launches hide behind it.
  static constexpr int kMaxGraphRows = 256;
  // Pages on their way to or from the host tier at a time.
  static constexpr int kStagedPages = 4;

  // Activations on the device, and the output rows' logits.
  struct Scratch {
    kernels::cuda::DeviceBuffer<float> x, q, attn, ffn;  // [max_rows, ...]
    kernels::cuda::DeviceBuffer<float> logits;           // [max_outputs, vocab]
    kernels::cuda::DeviceBatchBuffer batch;
    kernels::cuda::PinnedBuffer<uint32_t> saturated;  // [2] of the steps in flight
    bool ok() const {
      return x.data() != nullptr && q.data() != nullptr && attn.data() != nullptr && ffn.data() != nullptr &&
             logits.data() != nullptr && batch.ok() && saturated.data() != nullptr;
    }
  };
  struct Parts {
    std::unique_ptr<kernels::cuda::Device> device;  // first: what follows is its memory
    std::unique_ptr<kernels::cuda::CudaOps> ops;    // reserved
    WeightsOf<kernels::cuda::CudaOps> weights;
    Network network;  // its pointers: device memory of ops
    Scratch scratch;
    kernels::cuda::BatchBucket largest;  // what scratch has room for
    kernels::cuda::DeviceBuffer<uint8_t> pages;
    kernels::PagedKvView kv;                      // of `pages`
    std::unique_ptr<SwapArena> swap;              // nullptr = no host tier
    kernels::cuda::PinnedBuffer<uint8_t> staged;  // [kStagedPages, page_bytes]; empty without a host tier
    int max_graph_context = 0;                    // tokens; 0 = no graphs
    RunnerInfo info;
  };
  explicit CudaRunner(Parts parts);

  const RunnerInfo& info() const override { return p_.info; }
  absl::Status Step(const StepBatch& batch, StepResult* result) override;
  // Prompt logprobs of more rows than logits have room for are waited for in Submit.
  absl::Status Submit(const StepBatch& batch) override;
  absl::Status Wait(StepResult* result) override;
  absl::Status MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages) override;

  // Runs steps of one row and of a short prompt on page 0, which must hold nothing: kernels that this device cannot run
  // are found now.
  absl::Status WarmUp();

  // For tests: the logits of the last chunk of the last step, [max_outputs, vocab]; the bytes of a page; the device.
  std::span<const float> TEST_logits();
  std::vector<uint8_t> TEST_page(int32_t id);
  kernels::cuda::Device* TEST_device() { return p_.device.get(); }

 private:
  // A submitted step.
  struct InFlight {
    StepResult result;
    size_t first_unfinished = 0;  // result.outputs from here on are on their way
  };
  enum class Graph : int { kUnknown = -2, kSeen = -1 };  // else the device's id

  bool CanRecord(const StepBatch& batch) const;
  // Upload and layers, on the stream.
  void RunLayers(const StepBatch& batch, StepResult* result);
  kernels::Traffic Forward(const StepBatch& batch, const kernels::cuda::DeviceBatch& on_device, bool has_prefill,
                           bool launch);
  // Logits and draws of every output row, on the stream.
  void RunOutputs(const StepBatch& batch, InFlight* step);
  // Waits for the step of that number, and takes its outputs.
  void Finish(uint64_t step);
  absl::Status DeviceStatus() const;
  uint8_t* Staged(size_t i) const { return p_.staged.data() + i * p_.kv.layout.page_bytes; }
  void SavePages(std::span<const kv::PageMove> moves);
  void RestorePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed_pages);

  Parts p_;
  std::map<int32_t, Graph> graphs_;      // by rows of the bucket
  std::array<InFlight, 2> in_flight_;    // by the parity of the step's number
  uint64_t submitted_ = 0, waited_ = 0;  // steps so far
  std::vector<float> test_logits_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_RUNNERS_CUDA_RUNNER_H_
