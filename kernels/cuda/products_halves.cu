#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchE4M3(Device* device, const ProductArgs& args) { LaunchForm<Form<CudaKind::kE4M3, 1, false>>(device, args); }
void LaunchF16(Device* device, const ProductArgs& args) { LaunchForm<Form<CudaKind::kF16, 1, false>>(device, args); }

}  // namespace dunlin::kernels::cuda
