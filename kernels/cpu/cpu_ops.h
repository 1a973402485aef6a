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

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu/arena.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/row_sampler.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cpu {

class CpuOps {
 public:
  using Matrix = CpuMatrix;

  // isa: one of SupportedIsas().
  CpuOps(int num_threads, Isa isa);

  const char* isa_name() const { return IsaName(kernels_->isa); }
  int num_threads() const { return pool_.num_threads(); }
  ThreadPool& pool() { return pool_; }
  const KernelTable& kernels() const { return *kernels_; }
  // Of all matrices packed so far.
  uint64_t packed_bytes() const { return arena_.allocated_bytes(); }

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
  Traffic Sample(const float* logits, int vocab, std::span<const SampleParams> params, std::span<SampleResult> results);

 private:
  // Rows ready for Multiply, in the forms that the op's matrices need.
  struct Inputs {
    int cols = 0;
    bool quantized = false;
    bool halves = false;
    bool floats = false;
    const uint8_t* float_rows = nullptr;
    size_t float_stride = 0;
    void Need(const Matrix& w);
  };
  // Scratch of one thread.
  struct ThreadScratch {
    std::vector<float> row;  // one f32 row
    std::unique_ptr<uint8_t[]> expanded_memory;
    uint8_t* expanded = nullptr;  // 64-byte aligned
    std::vector<float> block[2];  // [kRowsPerPass][kBlockRows]
    RowSampler sampler;
  };

  // Norms (where norm is given), gathers (where rows is given) and quantises this thread's share of rows.
  void PrepareRows(ThreadPool::Context& context, int phase, const Inputs& inputs, const float* x, const int32_t* rows,
                   const float* norm, float eps, int num_rows);
  Inputs MakeInputs(std::initializer_list<const Matrix*> matrices, const float* x, const float* norm) const;
  // Multiplies all rows with all matrices; calls emit(matrix index, first output, outputs, first row, rows, block) for
  // every finished block [rows][kBlockRows] on the thread that computed it.
  template <typename Emit>
  void MultiplyBlocks(ThreadPool::Context& context, int phase, std::span<const Matrix* const> matrices,
                      const Inputs& inputs, int num_rows, Emit emit);
  void MultiplyBlock(const Matrix& w, const Inputs& inputs, int first_group, int num_groups, int first_row,
                     int num_rows, uint8_t* expanded, float* out) const;
  // Bias, head norms and RoPE of one row.
  void FinishRow(const AttentionInputArgs<Matrix>& args, const AttentionShape& shape, int position, float* q, float* k,
                 float* v) const;

  const KernelTable* kernels_;
  ThreadPool pool_;
  Arena arena_;
  OpLimits limits_;
  int max_cols_ = 0;
  int max_rows_ = 0;
  std::vector<float> normed_;  // [max_rows][max_cols]
  std::unique_ptr<uint8_t[]> record_memory_;
  uint8_t* records_ = nullptr;  // [max_rows] activation records, 64-byte aligned
  std::vector<float> k_, v_;    // [max_rows][num_kv_heads * head_dim]
  cpu::PagedAttention attention_;
  std::vector<ThreadScratch> scratch_;  // per thread
};

static_assert(TransformerOps<CpuOps>);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_CPU_OPS_H_
