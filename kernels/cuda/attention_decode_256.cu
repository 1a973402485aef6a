#include "kernels/cuda/attention_decode.cuh"

namespace dunlin::kernels::cuda {

template void LaunchDecode<256>(Device*, const DecodeArgs&, KvFormat, KvFormat);

}  // namespace dunlin::kernels::cuda
