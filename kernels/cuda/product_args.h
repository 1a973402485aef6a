// One launch of products.h's kernels, and who launches which kind.
// Thread-safety: plain values.  Owns: nothing.  Errors: as products.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_ARGS_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_ARGS_H_

#include <cstdint>

#include "kernels/cuda/products.h"

namespace dunlin::kernels::cuda {

inline constexpr int kMaxParts = 3;

// Up to three matrices over the same rows; or one, a gate, with its up behind it.
struct ProductArgs {
  CudaMatrix matrices[kMaxParts];
  ProductOut outs[kMaxParts];
  int first_block[kMaxParts] = {};  // in x, of each part
  int num_parts = 0;
  int log_splits = 3;  // K is split in 2^this; the two of a gated pair share the warps
  int warps = 8;       // of a block
  bool gated = false;
  FfnActivation activation = FfnActivation::kSilu;
  PreparedRows in;
  const int32_t* num_rows = nullptr;
};

// By the matrices' kind; factors16: they have factors of 16 columns; has_second: something stands beside their scales.
// Not every pair of these has kernels: of the types with factors of 16, Q2_K always has a min, the others never.
void LaunchW2(Device* device, const ProductArgs& args, bool factors16, bool has_second);
void LaunchW4(Device* device, const ProductArgs& args, bool factors16, bool has_second);
void LaunchW8(Device* device, const ProductArgs& args, bool factors16, bool has_second);
void LaunchE4M3(Device* device, const ProductArgs& args);
void LaunchF16(Device* device, const ProductArgs& args);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_ARGS_H_
