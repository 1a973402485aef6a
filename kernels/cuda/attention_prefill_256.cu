// Prefill attention at head_dim 256.
#include "kernels/cuda/attention_prefill.cuh"

namespace dunlin::kernels::cuda {

void LaunchPrefill256(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket,
                      const PrefillParams& params) {
  LaunchPrefill<256>(device, k, v, bucket, params);
}

}  // namespace dunlin::kernels::cuda
