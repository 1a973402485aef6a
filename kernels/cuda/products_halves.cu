#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchE4M3(Device* device, const ProductArgs& args) { LaunchKind<CudaKind::kE4M3, 1>(device, args); }
void LaunchF16(Device* device, const ProductArgs& args) { LaunchKind<CudaKind::kF16, 1>(device, args); }

}  // namespace dunlin::kernels::cuda
