// Prefill attention at head_dim 256.
#include "kernels/cuda/attention_prefill.cuh"

namespace dunlin::kernels::cuda {

void LaunchPrefill256(Device* device, const PrefillBucket& bucket, const PrefillArgs& args) {
  LaunchPrefill<256>(device, bucket, args);
}

}  // namespace dunlin::kernels::cuda
