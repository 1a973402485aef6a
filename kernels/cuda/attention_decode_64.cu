#include "kernels/cuda/attention_decode.cuh"

namespace dunlin::kernels::cuda {

template void LaunchDecode<64>(Device*, const DecodeArgs&, KvFormat, KvFormat);

}  // namespace dunlin::kernels::cuda
