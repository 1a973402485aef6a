// A weight matrix as the CUDA kernels read it: tiles of 16 outputs whose bytes are, lane by lane, the A fragments of
// the tensor core's instruction, so that a lane loads 16 bytes and multiplies; a few kinds for all the file types.
//
//   kind   codes                                   for                                  meets
//   kW2    2 bits, unsigned                        INT2 Q2_K                            int8 codes
//   kW4    4 bits, unsigned                        Q4_0 Q4_1 Q4_K Q3_K INT3 INT4        int8 codes
//   kW8    8 bits, signed                          Q8_0 Q5_* Q6_K IQ4_* INT8            int8 codes
//   kE4M3  E4M3                                    kE4M3 (our blocks)                   halves
//   kF16   f16 times a power of two per output     F16 BF16 F32 (rounded to f16)        halves
//
// Integer kinds and kE4M3: value = scale * (code + offset), or scale * code + min, every operation rounding once, is
// exactly DequantizeRow's. Scales are the file's halves, of group_cols columns (32, 64 or 128: the widest over which
// the file's do not change), with a min or a whole offset beside them where the file has one that changes. Where the
// file's are a half times a small whole number per 16 or 32 columns (K-quants), so are ours: scale = d * factor, min =
// dmin * min_factor, with bytes for the factors, which cost 2 to 6 % of the codes where f32 products would cost 50.
//
// Bytes of a row tile (16 outputs): for every unit of 128 columns the codes, 512 bytes for each load of a warp
// (matrix_tile.h), then for every unit its scales; after all row tiles, kF16's f32 factors [16 per tile]. Rows and
// columns are padded to whole tiles and units with zeros.
//
// Thread-safety: plain values.  Owns: nothing; the bytes are the packer's.  Errors: CHECK on shapes that contradict
// each other; out of device memory: PackMatrix returns false.  Source: ours; fragments as PTX ISA 8.x.
#ifndef DUNLIN_KERNELS_CUDA_MATRIX_H_
#define DUNLIN_KERNELS_CUDA_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/dtype.h"
#include "kernels/host_device.h"

namespace dunlin::kernels::cuda {

enum class CudaKind : uint8_t { kW2, kW4, kW8, kE4M3, kF16 };
// What stands beside each scale.
enum class CudaSecond : uint8_t { kNone, kMin, kOffset };

inline constexpr int kTileRows = 16;
inline constexpr int kUnitColumns = 128;
inline constexpr int kLoadBytes = 512;  // of a warp, 16 per lane

struct CudaMatrix {
  int rows = 0;
  int cols = 0;
  CudaKind kind = CudaKind::kF16;
  CudaSecond second = CudaSecond::kNone;
  int8_t code_offset = 0;         // of every code, where second is kNone
  int group_cols = 128;           // of a scale
  int factor_cols = 0;            // of a factor: 16, 32; 0: there are none
  const uint8_t* data = nullptr;  // device memory
  uint64_t bytes = 0;

  DUNLIN_HOST_DEVICE bool takes_codes() const { return kind <= CudaKind::kW8; }
  uint64_t packed_bytes() const { return bytes; }

  DUNLIN_HOST_DEVICE int row_tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  DUNLIN_HOST_DEVICE int units() const { return (cols + kUnitColumns - 1) / kUnitColumns; }
  // Loads of a warp for the codes of a unit: 1, 2, 4, 4, 8.
  DUNLIN_HOST_DEVICE int unit_loads() const {
    return kind == CudaKind::kW2 ? 1 : kind == CudaKind::kW4 ? 2 : kind == CudaKind::kF16 ? 8 : 4;
  }
  // Bytes of the scale (and what stands beside it) of a pair of rows, and of a pair's factors of 32 columns.
  DUNLIN_HOST_DEVICE int scale_bytes() const {
    return kind == CudaKind::kF16 ? 0 : second == CudaSecond::kNone ? 4 : 8;
  }
  DUNLIN_HOST_DEVICE int factor_bytes() const {
    return factor_cols == 0 ? 0 : 2 * (32 / factor_cols) * (second == CudaSecond::kMin ? 2 : 1);
  }
  DUNLIN_HOST_DEVICE int unit_scale_bytes() const {
    return 8 * (kUnitColumns / group_cols * scale_bytes() + kUnitColumns / 32 * factor_bytes());
  }
  // Rounded up so that tiles begin on 128 bytes.
  DUNLIN_HOST_DEVICE int64_t row_tile_bytes() const {
    const int64_t all = int64_t{units()} * (unit_loads() * kLoadBytes + unit_scale_bytes());
    return (all + 127) / 128 * 128;
  }
  DUNLIN_HOST_DEVICE int64_t scales_at() const { return int64_t{units()} * unit_loads() * kLoadBytes; }  // in a tile
  DUNLIN_HOST_DEVICE int64_t row_factors_at() const { return row_tiles() * row_tile_bytes(); }           // in data
};

// Device memory of packed weights, freed together.
class WeightArena {
 public:
  explicit WeightArena(Device* device) : device_(device) {}
  Device* device() const { return device_; }
  uint64_t allocated_bytes() const { return allocated_bytes_; }
  // 256-byte aligned; nullptr: memory ran out.
  uint8_t* Add(size_t bytes) {
    DeviceBuffer<uint8_t> piece(device_, bytes);
    uint8_t* data = piece.data();
    if (data != nullptr) {
      allocated_bytes_ += bytes;
      pieces_.push_back(std::move(piece));
    }
    return data;
  }

 private:
  Device* device_;
  std::vector<DeviceBuffer<uint8_t>> pieces_;
  uint64_t allocated_bytes_ = 0;
};

// Packs the rows' blocks (any alignment; rows * RowBytes(type, cols) bytes) on the host and uploads them.
// False: device memory ran out.
bool PackMatrix(DType type, int rows, int cols, std::span<const uint8_t> src, WeightArena* arena, CudaMatrix* matrix);

// One row back as floats, from a host copy of the packed bytes: what the kernels multiply with. out: [cols].
void UnpackRow(const CudaMatrix& matrix, const uint8_t* host_bytes, int row, float* out);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_MATRIX_H_
