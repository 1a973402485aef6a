#include "kernels/cuda/attention_prefill.cuh"
#include "tests/kernels/cuda/gates/declared_shared.h"

namespace dunlin::kernels::cuda::testing {
namespace {

template <int kDim, KvFormat kKey, KvFormat kValue>
void Add(std::vector<KernelShared>* out) {
  const std::string dim = std::to_string(kDim);
  out->push_back({"attention_prefill_" + dim,
                  "PrefillKernel<PrefillTraits<" + dim + ", KvFormat " + std::to_string(static_cast<int>(kKey)) +
                      ", KvFormat " + std::to_string(static_cast<int>(kValue)) + ">>",
                  PrefillTraits<kDim, kKey, kValue>::kSharedBytes});
}
template <int kDim>
void AddFormats(std::vector<KernelShared>* out) {
  Add<kDim, KvFormat::kE4M3, KvFormat::kE4M3>(out);
  Add<kDim, KvFormat::kInt8, KvFormat::kInt8>(out);
  Add<kDim, KvFormat::kInt8, KvFormat::kE4M3>(out);
  Add<kDim, KvFormat::kF16, KvFormat::kF16>(out);
}

}  // namespace

std::vector<KernelShared> PrefillShared() {
  std::vector<KernelShared> out;
  AddFormats<64>(&out);
  AddFormats<128>(&out);
  AddFormats<256>(&out);
  return out;
}

}  // namespace dunlin::kernels::cuda::testing
