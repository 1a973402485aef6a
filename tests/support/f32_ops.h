// The CPU backend with every weight widened to f32 at load, and so with f32 activations throughout: the arithmetic of
// the reference ops at a tenth of their time. Thread-safety, ownership, errors: as CpuOps.  Cost: four bytes per
// parameter.
#ifndef DUNLIN_TESTS_SUPPORT_F32_OPS_H_
#define DUNLIN_TESTS_SUPPORT_F32_OPS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/quant_format.h"

namespace dunlin::testing {

class F32Ops : public kernels::cpu::CpuOps {
 public:
  using kernels::cpu::CpuOps::CpuOps;

  Matrix Pack(kernels::DType type, int rows, int cols, std::span<const uint8_t> bytes) {
    std::vector<float> values(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    kernels::DequantizeRow(type, bytes, values);
    return CpuOps::Pack(kernels::DType::kF32, rows, cols,
                        {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)});
  }
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_SUPPORT_F32_OPS_H_
