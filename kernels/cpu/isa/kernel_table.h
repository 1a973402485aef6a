// The inner kernels of the CPU backend, one table per instruction set family. All families compute every float with the
// same operations in the same order (eight lanes, fused multiply-add where written so), so their results are bit-equal;
// they differ in speed alone.
// Thread-safety: pure functions on the caller's memory.  Errors: none; shapes were checked above.  Source: ours; the
// tile plan follows the usual register-blocked int8 GEMM.
#ifndef DUNLIN_KERNELS_CPU_ISA_KERNEL_TABLE_H_
#define DUNLIN_KERNELS_CPU_ISA_KERNEL_TABLE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/isa/attention_args.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/kv_rounding.h"
#include "kernels/ops.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cpu {

// 32 columns of a quantised activation row: value = scale * code. All that a tile's product needs lies together.
struct ActivationBlock {
  int8_t codes[kTileColumns];
  float scale;
  float sum;             // scale * (sum of the codes)
  int32_t code_sum;      // -128 * (sum of the codes)
  int32_t low_code_sum;  // the same of the first 16
};
static_assert(sizeof(ActivationBlock) == 48);

// A quantised row is one record of ActivationBlocks; a float row is f32 [cols].
struct ActivationLayout {
  int cols = 0;
  size_t blocks() const { return static_cast<size_t>(cols) / kTileColumns; }
  size_t bytes() const { return (blocks() * sizeof(ActivationBlock) + 63) / 64 * 64; }
};

inline constexpr int kBlockRows = 32;  // outputs that one multiply call covers at most
inline constexpr int kScanBlock = 32;  // logits per maximum

// y block = up to kBlockRows consecutive outputs (whole groups) of a matrix times all activation rows.
struct MultiplyArgs {
  const CpuMatrix* matrix = nullptr;  // packed with the table's group_rows
  int first_group = 0;
  int num_groups = 0;             // 1…kBlockRows / group_rows
  const uint8_t* rows = nullptr;  // activation records (quantised kinds) or f32 rows
  size_t row_stride = 0;          // bytes
  int num_rows = 0;
  uint8_t* scratch = nullptr;  // ExpandedBytes(cols), 64-byte aligned
  float* out = nullptr;        // [num_rows][kBlockRows]; columns of absent groups are left alone
  // What the caller reads next; fetched meanwhile where the work is long enough to leave the prefetchers idle.
  const uint8_t* next = nullptr;
  size_t next_bytes = 0;
};
constexpr size_t ExpandedBytes(int cols) {
  return static_cast<size_t>(cols + kTileColumns - 1) / kTileColumns * (kBlockRows * (8 + kTileColumns));
}

struct KernelTable {
  Isa isa;
  int group_rows;  // of the matrices that multiply reads

  // out = x / sqrt(mean(x^2) + eps) * weight.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  // act(gate) * up of a block [num_rows][kBlockRows] to one block of each of num_rows records, `stride` bytes apart.
  void (*gate_to_blocks)(FfnActivation activation, const float* gate, const float* up, int num_rows,
                         ActivationBlock* first, size_t stride);
  // x [32 * num_blocks] to as many blocks of a record.
  void (*quantize)(const float* x, size_t num_blocks, ActivationBlock* blocks);
  void (*multiply)(const MultiplyArgs& args);
  // to[i] += from[i].
  void (*add)(const float* from, int n, float* to);
  // RoPE of one head.
  void (*rotate)(const RopeTable& rope, int position, float* head);
  // out[i] = act(gate[i]) * up[i].
  void (*gate)(FfnActivation activation, const float* gate, const float* up, int n, float* out);
  // One token's K and V of one layer into its slot; the same bits as AppendToken. Returns saturated values.
  int (*append_token)(const PageLayout& layout, uint8_t* page, int layer, int slot, const float* k, const float* v,
                      const KvRounding& rounding);
  // The same for several tokens, of one or more sequences; much cheaper from about four on.
  int (*append_tokens)(const PageLayout& layout, int layer, const TokenSlot* tokens, int count,
                       const KvRounding& rounding);
  // q[i] *= factor.
  void (*scale)(float factor, int n, const float* from, float* to);

  void (*attend_segment)(const SegmentArgs& args);
  void (*merge_segment)(const MergeArgs& args);
  // The key bounds of a complete page of one layer; the same bits as WriteKeyBounds.
  // scratch: [(page_tokens + 2) * head_dim].
  void (*key_bounds)(const PageLayout& layout, uint8_t* page, int layer, float* scratch);
  void (*score_pages)(const ScorePagesArgs& args);

  // The maximum of every kScanBlock logits, NaN left out. out: [ceil(n / kScanBlock)].
  void (*block_max)(const float* x, int n, float* out);
  // sum of exp((x[i] - max) * factor); NaN counts as minus infinity.
  double (*sum_exp)(const float* x, int n, float max, float factor);

  // Multiply-adds done by `iterations` rounds of the int8 dot product on registers (the arithmetic roof).
  int64_t (*int8_stream)(int64_t iterations, int32_t* sink);
  // Likewise in f32, fused.
  int64_t (*float_stream)(int64_t iterations, float* sink);
  // Sum of all bytes as 64-bit words, in wide loads (the read roof).
  uint64_t (*read_stream)(const uint8_t* data, size_t bytes);
};

// CHECK-fails for a family that this build or processor lacks.
const KernelTable& GetKernels(Isa isa);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ISA_KERNEL_TABLE_H_
