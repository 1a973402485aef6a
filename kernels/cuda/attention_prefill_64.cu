// Prefill attention at head_dim 64.
#include "kernels/cuda/attention_prefill.cuh"

namespace dunlin::kernels::cuda {

void LaunchPrefill64(Device* device, const PrefillBucket& bucket, const PrefillArgs& args) {
  LaunchPrefill<64>(device, bucket, args);
}

}  // namespace dunlin::kernels::cuda
