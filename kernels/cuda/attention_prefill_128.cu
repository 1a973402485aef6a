// Prefill attention at head_dim 128.
#include "kernels/cuda/attention_prefill.cuh"

namespace dunlin::kernels::cuda {

void LaunchPrefill128(Device* device, KvFormat k, KvFormat v, const PrefillBucket& bucket,
                      const PrefillParams& params) {
  LaunchPrefill<128>(device, k, v, bucket, params);
}

}  // namespace dunlin::kernels::cuda
