#include "base/check.h"
#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchW8(Device* device, const ProductArgs& args, bool factors16, bool has_second) {
  if (factors16) {
    CHECK_EQ(has_second, false);
    LaunchForm<Form<CudaKind::kW8, 2, false>>(device, args);
  } else if (has_second) {
    LaunchForm<Form<CudaKind::kW8, 1, true>>(device, args);
  } else {
    LaunchForm<Form<CudaKind::kW8, 1, false>>(device, args);
  }
}

}  // namespace dunlin::kernels::cuda
