#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchW2(Device* device, const ProductArgs& args, bool factors16) {
  if (factors16) {
    LaunchKind<CudaKind::kW2, 2>(device, args);
  } else {
    LaunchKind<CudaKind::kW2, 1>(device, args);
  }
}

}  // namespace dunlin::kernels::cuda
