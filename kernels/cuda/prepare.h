// Rows on their way into a weight product: embedding, norm, rounding. Prepare: one block per row.
// Thread-safety, errors: as runtime.h.  Pointers: device memory; x and norm 16-byte aligned.  Rows from
// counts->num_rows (nullptr: from num_rows) on are left alone.  A row's result depends on that row alone, bit for bit.
// Cost: reads and writes each row once; latency-bound below about 64 rows.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PREPARE_H_
#define DUNLIN_KERNELS_CUDA_PREPARE_H_

#include <cstdint>

#include "kernels/cuda/activations.h"
#include "kernels/cuda/batch.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {

// x[r] = scale * row token_ids[r] of the table (dequantised as the table's kind says).  x: f32 [max_rows, table.cols]
void Embed(Device* device, const CudaMatrix& table, const DeviceBatch& batch, float scale, float* x);

// What rows are prepared: row i of the result is row rows[i] of x, or row i where rows is nullptr.
struct RowsToPrepare {
  const float* x = nullptr;           // f32 [*, prepared.cols]
  const int32_t* rows = nullptr;      // [prepared.rows]
  const int32_t* num_rows = nullptr;  // on the device: how many of prepared.rows count; nullptr: all
  const float* norm = nullptr;        // [cols] RmsNorm(x) * norm first; nullptr: x as it is
  float eps = 0.0f;
};
// Writes codes or halves, whichever `to` has.
void Prepare(Device* device, const RowsToPrepare& from, const PreparedRows& to);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PREPARE_H_
