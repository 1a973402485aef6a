#include "kernels/cuda/attention_decode.cuh"
#include "tests/kernels/cuda/gates/declared_shared.h"

namespace dunlin::kernels::cuda::testing {
namespace {

template <KvFormat kKey, KvFormat kValue, int kDim, int kHeadTiles>
void Add(std::vector<KernelShared>* out) {
  const std::string dim = std::to_string(kDim);
  out->push_back({"attention_decode_" + dim,
                  "DecodeKernel<KvFormat " + std::to_string(static_cast<int>(kKey)) + ", KvFormat " +
                      std::to_string(static_cast<int>(kValue)) + ", " + dim + ", " + std::to_string(kHeadTiles) + ">",
                  Decode<kKey, kValue, kDim, kHeadTiles>::kSharedBytes});
}
template <int kDim, int kHeadTiles>
void AddFormats(std::vector<KernelShared>* out) {
  Add<KvFormat::kE4M3, KvFormat::kE4M3, kDim, kHeadTiles>(out);
  Add<KvFormat::kInt8, KvFormat::kInt8, kDim, kHeadTiles>(out);
  Add<KvFormat::kInt8, KvFormat::kE4M3, kDim, kHeadTiles>(out);
  Add<KvFormat::kF16, KvFormat::kF16, kDim, kHeadTiles>(out);
}

}  // namespace

std::vector<KernelShared> DecodeShared() {
  std::vector<KernelShared> out;
  AddFormats<64, 1>(&out);
  AddFormats<64, 2>(&out);
  AddFormats<128, 1>(&out);
  AddFormats<128, 2>(&out);
  AddFormats<256, 1>(&out);
  AddFormats<256, 2>(&out);
  return out;
}

}  // namespace dunlin::kernels::cuda::testing
