// The CPU backend: the ops of kernels/ops.h over packed weights, int8 activations and paged KV, on a pool of threads.
// A row's result is the same bits for every batch, thread count and instruction set family.
//
// Block-quantised weights meet activations rounded to int8 per 32 values; F32, F16 and BF16 weights meet f32
// activations. Thread-safety: one caller at a time.  Owns: threads, packed weights (a Matrix lives as long as its
// CpuOps), scratch. Errors: CHECK on shapes that contradict each other or exceed Reserve.  Cost: a fused op is one job
// of the pool with at most two barriers; nothing allocates after Reserve, except SampleResult's vectors up to their
// capacity. Source: ours; int8 GEMM tiles and paged attention as usual in the field.
#ifndef DUNLIN_KERNELS_CPU_CPU_OPS_H_
#define DUNLIN_KERNELS_CPU_CPU_OPS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/products.h"
#include "kernels/cpu/row_sampler.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/layer_ops.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cpu {

class CpuOps {
 public:
  using Matrix = CpuMatrix;

  // isa: one of SupportedIsas().
  CpuOps(int num_threads, Isa isa);

  const char* isa_name() const { return IsaName(kernels_->isa); }
  int num_threads() const { return pool_.num_threads(); }
  // Threads for steps of a few rows, which read weights faster than they multiply: more than the memory can feed only
  // get in each other's way. All of them until set.
  void set_decode_threads(int threads) { decode_threads_ = threads; }
  ThreadPool& pool() { return pool_; }
  const KernelTable& kernels() const { return *kernels_; }
  // Of all matrices packed so far.
  uint64_t packed_bytes() const { return arena_.allocated_bytes(); }
  const Arena& packed() const { return arena_; }

  Matrix Pack(DType type, int rows, int cols, std::span<const uint8_t> bytes);
  void Reserve(const OpLimits& limits);

  Traffic Embed(const Matrix& table, const BatchView& batch, float scale, float* x);
  Traffic AttentionInput(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape, const BatchView& batch,
                         const PagedKvView& kv, const float* x, float* q, int64_t* saturated);
  Traffic PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                         const float* q, float* out);
  Traffic ProjectAdd(const Matrix& w, int num_rows, const float* in, float* residual);
  Traffic GatedFfn(const Matrix& w_gate, const Matrix& w_up, const float* norm, float eps, FfnActivation activation,
                   int num_rows, const float* x, float* out);
  Traffic Logits(const Matrix& head, const float* norm, float eps, std::span<const int32_t> rows, const float* x,
                 float* logits);
  // The five ops between in one job of the pool; same bits.
  Traffic Layer(const LayerArgs<Matrix>& args, const AttentionShape& shape, const BatchView& batch,
                const PagedKvView& kv, const Activations& act, int64_t* saturated);
  Traffic Sample(const float* logits, int vocab, std::span<const SampleParams> params, std::span<SampleResult> results);

 private:
  // Scratch of one thread.
  struct ThreadScratch {
    RowSampler sampler;
  };

  // The ops as phases of a running job, numbered from `phase` on (how many each takes: cpu_ops.cc). No barrier at their
  // ends.
  struct AttentionInputCall {
    const AttentionInputArgs<Matrix>& args;
    const AttentionShape& shape;
    const BatchView& batch;
    const PagedKvView& kv;
    const float* x;
    float* q;
    std::atomic<int64_t> saturated{0};
  };
  void CheckAttentionInput(const AttentionInputCall& call) const;
  void RunAttentionInput(ThreadPool::Context& context, int phase, AttentionInputCall* call);
  Traffic AttentionInputTraffic(const AttentionInputCall& call) const;
  // Bias, head norms and RoPE of one row.
  void FinishQueries(const AttentionInputCall& call, int row) const;
  void FinishKeys(const AttentionInputCall& call, int row);
  // K and V of rows [first, first + count), at most kFinishRows, to their slots. Returns saturated values.
  int AppendRows(const AttentionInputCall& call, int first, int count);
  // Row i of the inputs goes to row residual_rows[i]; nullptr = i.
  void RunProjectAdd(ThreadPool::Context& context, int phase, const Matrix& w, const Products::Inputs& inputs,
                     const int32_t* residual_rows, float* residual);
  static Traffic ProjectAddTraffic(const Matrix& w, int num_rows);
  static Traffic GatedFfnTraffic(const Matrix& w_gate, const Matrix& w_up, int num_rows);
  // To `floats` [num_rows, ffn], or to `records` where given.
  void RunGatedFfn(ThreadPool::Context& context, int phase, const Matrix& w_gate, const Matrix& w_up,
                   FfnActivation activation, const Products::Inputs& inputs, float* floats,
                   const Products::Output* records);

  Traffic AttentionTraffic(const AttentionCall& call) const;

  const KernelTable* kernels_;
  ThreadPool pool_;
  int decode_threads_;
  Arena arena_;
  OpLimits limits_;
  Products products_;
  std::vector<float> k_, v_;  // [max_rows][num_kv_heads * head_dim]
  cpu::PagedAttention attention_;
  std::vector<ThreadScratch> scratch_;  // per thread
};

static_assert(LayerOps<CpuOps>);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_CPU_OPS_H_
