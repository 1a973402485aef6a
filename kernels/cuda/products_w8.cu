#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchW8(Device* device, const ProductArgs& args, bool factors16) {
  if (factors16) {
    LaunchKind<CudaKind::kW8, 2>(device, args);
  } else {
    LaunchKind<CudaKind::kW8, 1>(device, args);
  }
}

}  // namespace dunlin::kernels::cuda
