// Matrix products of the CPU backend as phases of a running job: rows of activations are made ready (normed, gathered,
// rounded to int8), then multiplied with whole matrices, block by block. The ops of cpu_ops.h are made of these.
// Thread-safety: the calls with a Context are entered by every thread of the pool together; the others by one caller.
// Owns: activation records, scratch of each thread.  Shapes: a block is kBlockRows outputs x up to kRowsPerPass rows.
// Errors: CHECK on sizes beyond Reserve.  Cost: no allocation after Reserve.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_PRODUCTS_H_
#define DUNLIN_KERNELS_CPU_PRODUCTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/thread_pool.h"

namespace dunlin::kernels::cpu {

// Bytes aligned for vectors, not initialised: what is never used never becomes resident.
class AlignedBytes {
 public:
  void Allocate(size_t bytes);
  uint8_t* data() const { return data_; }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  uint8_t* data_ = nullptr;
};

// Rows of activations as the matrices of one product need them.
struct RowSource {
  const float* x = nullptr;         // [rows, cols]
  const int32_t* gather = nullptr;  // [num_rows] rows of x; nullptr = 0, 1, 2, …
  const float* norm = nullptr;      // RMS norm's weight [cols]; nullptr = none
  float eps = 0.0f;
};

class Products {
 public:
  using Matrices = std::span<const CpuMatrix* const>;

  // Activation rows that stay in the second-level cache while weights stream by.
  static constexpr int kRowsPerPass = 256;
  // Of these, rows that one item of work covers: a thread with nothing left to do waits no longer than for one.
  static constexpr int kRowsPerItem = 128;
  // Of these, rows that one product of a block covers: they and its outputs stay in the first-level cache.
  static constexpr int kRowsPerBlock = 64;
  // Up to so many rows every thread prepares all of them for itself: cheaper than a barrier.
  static constexpr int kPrivateRows = 4;

  // Rows ready to be multiplied.
  struct Inputs {
    int cols = 0;
    int num_rows = 0;
    const uint8_t* records = nullptr;  // ActivationLayout{cols}; nullptr where no matrix is quantised
    const float* floats = nullptr;     // [num_rows, cols]; nullptr where every matrix is
  };

  Products(const KernelTable* kernels, ThreadPool* pool) : kernels_(kernels), pool_(pool) {}
  void Reserve(int max_rows, int max_cols);
  int max_rows() const { return max_rows_; }

  // Makes num_rows rows ready. Done for the caller when it returns: with a barrier inside where threads share the work.
  Inputs Prepare(ThreadPool::Context& context, int phase, Matrices matrices, const RowSource& source, int num_rows);

  // Rows that a product hands to the next one as records, written block by block.
  struct Output {
    ActivationLayout layout;
    uint8_t* records = nullptr;
  };
  // For a product with `next`; records of one Output at a time. CHECK-fails unless `next` is quantised.
  Output MakeOutput(const CpuMatrix& next);
  // The block of kTileColumns columns from `first_column` on of row `row`; the next row's is layout.bytes() further.
  static ActivationBlock* OutputBlock(const Output& output, int row, int first_column) {
    return reinterpret_cast<ActivationBlock*>(output.records + static_cast<size_t>(row) * output.layout.bytes()) +
           first_column / kTileColumns;
  }
  static Inputs AsInputs(const Output& output, int num_rows) {
    return {output.layout.cols, num_rows, output.records, nullptr};
  }

  // Multiplies all rows with all matrices; calls emit(matrix index, first output, outputs, first row, rows, block) for
  // every finished block [rows][kBlockRows] on the thread that computed it. No barrier at its end.
  template <typename Emit>
  void Multiply(ThreadPool::Context& context, int phase, Matrices matrices, const Inputs& inputs, Emit emit);

  // One more matrix on the block that Multiply has just emitted; out: the thread's second block.
  const float* MultiplyAlso(ThreadPool::Context& context, const CpuMatrix& w, const Inputs& inputs, int first_output,
                            int first_row, int num_rows) {
    float* out = scratch_[static_cast<size_t>(context.thread())].block[1].data();
    MultiplyBlock(context, w, inputs, first_output / kBlockRows, first_row, num_rows, out);
    return out;
  }

  // Fetches the beginning of this thread's share of a product that comes after the next barrier.
  void PrefetchShare(const ThreadPool::Context& context, Matrices matrices) const;

 private:
  struct Scratch {
    std::vector<float> row;         // [max_cols] one normed row
    AlignedBytes expanded;          // MultiplyArgs::scratch
    std::vector<float> block[2];    // [kRowsPerBlock][kBlockRows]
    AlignedBytes records;           // [kPrivateRows]
    std::vector<float> float_rows;  // [kPrivateRows][max_cols]
  };

  static int NumBlocks(const CpuMatrix& m) { return (m.rows + kBlockRows - 1) / kBlockRows; }
  static int NumBlocks(Matrices matrices);
  // record, floats: where the row goes in these forms, or nullptr.
  void PrepareRow(const RowSource& source, int row, int cols, uint8_t* record, float* floats, float* scratch_row) const;
  void MultiplyBlock(ThreadPool::Context& context, const CpuMatrix& w, const Inputs& inputs, int block, int first_row,
                     int num_rows, float* out) const;

  const KernelTable* kernels_;
  ThreadPool* pool_;
  int max_rows_ = 0;
  int max_cols_ = 0;
  AlignedBytes records_;          // [max_rows] of what Prepare shares
  AlignedBytes output_records_;   // [max_rows] of Output
  AlignedBytes float_rows_;       // [max_rows][max_cols] floats likewise
  std::vector<Scratch> scratch_;  // per thread
};

template <typename Emit>
void Products::Multiply(ThreadPool::Context& context, int phase, Matrices matrices, const Inputs& inputs, Emit emit) {
  float* out = scratch_[static_cast<size_t>(context.thread())].block[0].data();
  const int blocks = NumBlocks(matrices);
  // Items: of a pass, block by block; of a block, kRowsPerItem rows at a time. Passes before the last are full.
  constexpr int kItemsPerBlock = kRowsPerPass / kRowsPerItem;
  const int full_passes = inputs.num_rows / kRowsPerPass;
  const int last_items = (inputs.num_rows % kRowsPerPass + kRowsPerItem - 1) / kRowsPerItem;
  const int64_t items = int64_t{blocks} * (full_passes * kItemsPerBlock + last_items);
  // Small enough to balance a busy machine.
  const int64_t chunk = std::clamp(blocks / (context.num_threads() * 16), 1, 16);
  context.ForShare(phase, items, chunk, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int pass = std::min(static_cast<int>(item / (blocks * kItemsPerBlock)), full_passes);
      const int in_pass = static_cast<int>(item - int64_t{pass} * blocks * kItemsPerBlock);
      const int block_items = pass < full_passes ? kItemsPerBlock : last_items;
      const int first_row = pass * kRowsPerPass + in_pass % block_items * kRowsPerItem;
      const int rows = std::min(kRowsPerItem, inputs.num_rows - first_row);
      int block = in_pass / block_items;
      size_t index = 0;
      for (; block >= NumBlocks(*matrices[index]); ++index) block -= NumBlocks(*matrices[index]);
      const CpuMatrix& w = *matrices[index];
      const int outputs = std::min(kBlockRows, w.rows - block * kBlockRows);
      for (int r = first_row; r < first_row + rows; r += kRowsPerBlock) {
        const int count = std::min(kRowsPerBlock, first_row + rows - r);
        MultiplyBlock(context, w, inputs, block, r, count, out);
        emit(index, block * kBlockRows, outputs, r, count, out);
      }
    }
  });
}

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_PRODUCTS_H_
