// Prefill attention at head_dim 64.
#include "kernels/cuda/attention_prefill.cuh"

namespace dunlin::kernels::cuda {

void LaunchPrefill64(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket, const PrefillParams& params) {
  LaunchPrefill<64>(device, k, v, bucket, params);
}

}  // namespace dunlin::kernels::cuda
