#include "base/check.h"
#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {

void LaunchW2(Device* device, const ProductArgs& args, bool factors16, bool has_second) {
  if (factors16) {
    CHECK_EQ(has_second, true);
    LaunchForm<Form<CudaKind::kW2, 2, true>>(device, args);
  } else if (has_second) {
    LaunchForm<Form<CudaKind::kW2, 1, true>>(device, args);
  } else {
    LaunchForm<Form<CudaKind::kW2, 1, false>>(device, args);
  }
}

}  // namespace dunlin::kernels::cuda
