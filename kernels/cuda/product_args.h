// One launch of products.h's kernels, and who launches which kind.
// Thread-safety: plain values.  Owns: nothing.  Errors: as products.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_ARGS_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_ARGS_H_

#include <cstdint>

#include "kernels/cuda/products.h"

namespace dunlin::kernels::cuda {

inline constexpr int kMaxParts = 3;
template <CudaKind kKind>
inline constexpr bool kTakesCodes = kKind <= CudaKind::kW8;

// Up to three matrices over the same rows; or one, a gate, with its up behind it.
struct ProductArgs {
  CudaMatrix matrices[kMaxParts];
  ProductOut outs[kMaxParts];
  int first_block[kMaxParts] = {};  // in x, of each part
  int num_parts = 0;
  int splits = 8;  // of K; the two of a gated pair share the warps
  int warps = 8;   // of a block
  bool gated = false;
  FfnActivation activation = FfnActivation::kSilu;
  PreparedRows in;
  const int32_t* num_rows = nullptr;
};

// factors16: whether the matrices have factors of 16 columns.
void LaunchW2(Device* device, const ProductArgs& args, bool factors16);
void LaunchW4(Device* device, const ProductArgs& args, bool factors16);
void LaunchW8(Device* device, const ProductArgs& args, bool factors16);
void LaunchE4M3(Device* device, const ProductArgs& args);
void LaunchF16(Device* device, const ProductArgs& args);

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_ARGS_H_
