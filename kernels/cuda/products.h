// Weight products: y = W h for prepared rows h, with what comes after fused. One kernel family for 1 to thousands of
// rows: weights are the tensor core's M side, tokens its N side in tiles of 8 ("swap AB").
// Thread-safety, errors: as runtime.h.  Pointers: device memory.  A row's result depends on that row and the matrix's
// shape alone: K is split by the shape, sums are added in a fixed order; repeated runs are bit-equal.
// Cost: packed_bytes() once per tile of up to 32 rows (decode; 8 and 16 have kernels of their own) or of 64.
// Source: ours; the packing idea is Marlin's (arXiv 2408.11743), int8 groups on the tensor core as llama.cpp's MMQ and
// QServe (arXiv 2405.04532).
#ifndef DUNLIN_KERNELS_CUDA_PRODUCTS_H_
#define DUNLIN_KERNELS_CUDA_PRODUCTS_H_

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/runtime.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cuda {

// out: f32 [in.rows, ld]; row r, output o at out[r * ld + o].
struct ProductOut {
  float* out = nullptr;
  int ld = 0;
  const float* bias = nullptr;       // [matrix.rows] or nullptr
  const int32_t* to_rows = nullptr;  // row i goes to row to_rows[i] of out; nullptr: i
  bool add = false;                  // += instead of =
  bool gate = false;                 // out = activation(out) * value: out holds the gate's product
  FfnActivation activation = FfnActivation::kSilu;
};
// num_rows: on the device, how many of in.rows count; nullptr: all. Rows beyond are neither read nor written.
void Multiply(Device* device, const CudaMatrix& matrix, const PreparedRows& in, const int32_t* num_rows,
              const ProductOut& out);

// Up to three matrices over the same rows (q, k, v), in one launch where the same kernel multiplies all, else in one
// for each. All of one kind class (takes_codes alike).
struct ProductPart {
  const CudaMatrix* matrix = nullptr;
  ProductOut out;
};
void MultiplyParts(Device* device, const ProductPart* parts, int num_parts, const PreparedRows& in,
                   const int32_t* num_rows);

// out[r] = act(Wgate h) * (Wup h); both matrices have the same shape and take the same form of rows. One launch where
// the same kernel multiplies both, else one for each. out: f32 [in.rows, gate.rows].
void MultiplyGated(Device* device, const CudaMatrix& gate, const CudaMatrix& up, FfnActivation activation,
                   const PreparedRows& in, const int32_t* num_rows, float* out);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCTS_H_
