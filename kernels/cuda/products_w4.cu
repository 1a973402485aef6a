#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchW4(Device* device, const ProductArgs& args, bool factors16) {
  if (factors16) {
    LaunchKind<CudaKind::kW4, 2>(device, args);
  } else {
    LaunchKind<CudaKind::kW4, 1>(device, args);
  }
}

}  // namespace dunlin::kernels::cuda
