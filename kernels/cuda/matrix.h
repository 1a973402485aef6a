// A weight matrix as the CUDA kernels read it: tiles of 16 outputs whose bytes are, lane by lane, the A fragments of
// the tensor core's instruction, so that a lane loads 16 bytes and multiplies; a few kinds for all the file types.
//
//   kind   codes                                   for                                  meets
//   kW2    2 bits                                  INT2                                 int8 codes
//   kW4    4 bits                                  Q4_0 Q4_1 Q4_K IQ4_NL… INT3 INT4     int8 codes
//   kW8    8 bits                                  Q8_0 Q5_* Q6_K Q2_K Q3_K IQ4_* INT8  int8 codes
//   kE4M3  E4M3 with a scale per 32 columns        kE4M3 (our blocks)                   halves
//   kF16   f16 with a power of two per output      F16 BF16 F32 (rounded to f16)        halves
//
// value = scale * code + min per group of group_cols columns (16, 32, 64 or 128; matrix.cc finds the widest over which
// the file's scales do not change). Rows and columns are padded to whole tiles with zeros.
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

namespace dunlin::kernels::cuda {

enum class CudaKind : uint8_t { kW2, kW4, kW8, kE4M3, kF16 };

struct CudaMatrix {
  int rows = 0;
  int cols = 0;
  CudaKind kind = CudaKind::kF16;
  int group_cols = 32;
  bool has_min = false;
  const uint8_t* data = nullptr;  // device memory
  uint64_t bytes = 0;

  bool takes_codes() const { return kind <= CudaKind::kW8; }
  uint64_t packed_bytes() const { return bytes; }
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
