// What the kernels of products.h share: which rows and which part of the launch a block has, and what becomes of a sum.
// Thread-safety: device code.  Owns: nothing.  Errors: none.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_EPILOGUE_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_EPILOGUE_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/product_args.h"

namespace dunlin::kernels::cuda {

inline constexpr int kWarps = 8;  // of a block, at most

DUNLIN_DEV int RowCount(const ProductArgs& args) {
  if (args.num_rows == nullptr) return args.in.rows;
  const int count = *args.num_rows;
  return count < args.in.rows ? count : args.in.rows;
}

DUNLIN_DEV int PartOfBlock(const ProductArgs& args) {
  int part = 0;
  if (args.num_parts > 1 && dev::BlockX() >= args.first_block[1]) part = 1;
  if (args.num_parts > 2 && dev::BlockX() >= args.first_block[2]) part = 2;
  return part;
}

// Its warp, in a form that the compiler knows to be the same in all lanes.
DUNLIN_DEV int UniformWarp() { return dev::Shuffle(dev::Warp(), 0); }

// ---- What becomes of a sum ----

DUNLIN_DEV float Activate(FfnActivation activation, float x) {
  constexpr float kLog2E = 1.44269504f;
  // gelu's 0.5 (1 + tanh(u)) is the logistic function of 2u.
  const float u = activation == FfnActivation::kSilu ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
  return x / (1.0f + dev::Exp2(-u * kLog2E));
}

// Powers of two: exact.
DUNLIN_DEV float Unscale(const CudaMatrix& m, const PreparedRows& in, int row, int token, float sum) {
  if (m.takes_codes()) return sum;
  if (m.kind == CudaKind::kF16) sum *= reinterpret_cast<const float*>(m.data + m.row_factors_at())[row];
  return sum * in.row_scale[token];
}

DUNLIN_DEV void Store(const ProductOut& to, int row, int token, float value) {
  if (to.bias != nullptr) value += to.bias[row];
  float* out = to.out + int64_t{to.to_rows != nullptr ? to.to_rows[token] : token} * to.ld + row;
  if (to.gate) {
    *out = Activate(to.activation, *out) * value;
  } else {
    *out = to.add ? *out + value : value;
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_EPILOGUE_H_
