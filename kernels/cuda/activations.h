// Rows of activations as the weight products read them, on the device: what prepare.h writes and products.h multiplies.
// Every prepared row has one of two forms, which the matrix's kind decides (CudaMatrix::takes_codes):
//
//   codes   int8 per 32 columns, as the CPU backend rounds them: scale = amax / 127 (1 for a block of zeros), code =
//           round(x / scale) to nearest even, clamped to +-127. A block's codes lie in the order in which a lane of a
//           warp takes them to the tensor core (CodePlace), its scale and the sums of its codes beside them.
//   halves  f16 of x * 2^-e, with one e per row such that amax * 2^-e <= 2^14 (0 where amax is smaller anyway);
//   row_scale
//           is 2^e. In column order.
//
// Columns from `cols` to `stride` are zeros (codes, scales and sums too).
// Thread-safety: plain values.  Owns: nothing, see PreparedBuffer.  Errors: none.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_ACTIVATIONS_H_
#define DUNLIN_KERNELS_CUDA_ACTIVATIONS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/runtime.h"
#include "kernels/host_device.h"

namespace dunlin::kernels::cuda {

inline constexpr int kBlockColumns = 32;
inline constexpr int kColumnMultiple = 128;  // strides are multiples of this

DUNLIN_HOST_DEVICE constexpr int PreparedStride(int cols) {
  return (cols + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple;
}

// Byte of column c (0…31) within its block of codes: lane t of a quad finds its four columns of the first half and its
// four of the second, 4t… and 16 + 4t…, in eight consecutive bytes: b0 and b1 of MmaS8.
DUNLIN_HOST_DEVICE constexpr int CodePlace(int c) { return (c % 16) / 4 * 8 + c / 16 * 4 + c % 4; }

struct alignas(8) BlockScale {
  float scale;
  int16_t low_sum;   // of the codes of columns 0…15
  int16_t high_sum;  // of columns 16…31
};

struct PreparedRows {
  int rows = 0;
  int cols = 0;
  int stride = 0;                // PreparedStride(cols)
  int8_t* codes = nullptr;       // [rows, stride], 16-byte aligned
  BlockScale* scales = nullptr;  // [rows, stride / 32]
  uint16_t* halves = nullptr;    // [rows, stride]; nullptr where codes are used, and the other way round
  float* row_scale = nullptr;    // [rows], with halves
};

// Room for either form of up to max_rows rows of up to max_cols columns. data: nullptr when memory ran out.
class PreparedBuffer {
 public:
  PreparedBuffer() = default;
  PreparedBuffer(Device* device, int max_rows, int max_cols)
      : bytes_(device, static_cast<size_t>(max_rows) *
                           (static_cast<size_t>(PreparedStride(max_cols)) * 2 + 16 +
                            static_cast<size_t>(PreparedStride(max_cols)) / kBlockColumns * sizeof(BlockScale))) {}
  bool ok() const { return bytes_.data() != nullptr; }
  // A view of `rows` rows of `cols` columns in the buffer; both within what it was made for.
  PreparedRows Codes(int rows, int cols) const {
    PreparedRows r{.rows = rows, .cols = cols, .stride = PreparedStride(cols)};
    const size_t values = static_cast<size_t>(rows) * static_cast<size_t>(r.stride);
    r.codes = reinterpret_cast<int8_t*>(bytes_.data());
    r.scales = reinterpret_cast<BlockScale*>(bytes_.data() + values);
    return r;
  }
  PreparedRows Halves(int rows, int cols) const {
    PreparedRows r{.rows = rows, .cols = cols, .stride = PreparedStride(cols)};
    const size_t values = static_cast<size_t>(rows) * static_cast<size_t>(r.stride);
    r.halves = reinterpret_cast<uint16_t*>(bytes_.data());
    r.row_scale = reinterpret_cast<float*>(bytes_.data() + 2 * values);
    return r;
  }

 private:
  DeviceBuffer<uint8_t> bytes_;
};

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_ACTIVATIONS_H_
