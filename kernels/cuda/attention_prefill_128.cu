// Prefill attention at head_dim 128.
#include "kernels/cuda/attention_prefill.cuh"

namespace dunlin::kernels::cuda {

void LaunchPrefill128(Device* device, const PrefillBucket& bucket, const PrefillArgs& args) {
  LaunchPrefill<128>(device, bucket, args);
}

}  // namespace dunlin::kernels::cuda
