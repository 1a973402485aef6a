// declared.tsv, from which blocks per SM are computed, against the sources: a kernel's shared memory is asked for at
// its launch, so no cubin has it.
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/attention_prefill.cuh"
#include "kernels/cuda/product_kernels.h"

namespace dunlin::kernels::cuda {
namespace {

// The dynamic shared memory in declared.tsv's line for the kernel (its pattern, as written there); -1: there is none.
int Declared(const std::string& kernel_file, const std::string& kernel) {
  std::ifstream in(DUNLIN_SOURCE_DIR "/kernels/cuda/declared.tsv");
  std::string line;
  while (std::getline(in, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream cells(line);
    std::string file, name, bytes;
    std::getline(cells, file, '\t');
    std::getline(cells, name, '\t');
    std::getline(cells, bytes, '\t');
    if (file == kernel_file && name == kernel) return std::stoi(bytes);
  }
  return -1;
}

template <KvFormat kKey, KvFormat kValue, int kDim>
void Check() {
  const std::string dim = std::to_string(kDim);
  const std::string instance = "<KvFormat " + std::to_string(static_cast<int>(kKey)) + ", KvFormat " +
                               std::to_string(static_cast<int>(kValue)) + ", " + dim;
  const std::string decode = "attention_decode_" + dim, prefill = "attention_prefill_" + dim;
  EXPECT_EQ(Declared(decode, "DecodeKernel" + instance + ", 1>"), (Decode<kKey, kValue, kDim, 1>::kSharedBytes));
  EXPECT_EQ(Declared(decode, "DecodeKernel" + instance + ", 2>"), (Decode<kKey, kValue, kDim, 2>::kSharedBytes));
  EXPECT_EQ(Declared(prefill, "PrefillKernel" + instance + ">"), (Prefill<kKey, kValue, kDim>::kSharedBytes));
}
template <int kDim>
void CheckFormats() {
  SCOPED_TRACE(kDim);
  Check<KvFormat::kE4M3, KvFormat::kE4M3, kDim>();
  Check<KvFormat::kInt8, KvFormat::kInt8, kDim>();
  Check<KvFormat::kInt8, KvFormat::kE4M3, kDim>();
  Check<KvFormat::kF16, KvFormat::kF16, kDim>();
}

TEST(DeclaredShared, Attention) {
  CheckFormats<64>();
  CheckFormats<128>();
  CheckFormats<256>();
}

TEST(DeclaredShared, ProductsOfManyRows) {
  const int totals = kWarps * kTotals * static_cast<int>(sizeof(float));
  for (const char* file : {"products_w2", "products_w4", "products_w8"}) {
    EXPECT_EQ(Declared(file, "ManyRows<.*>"), kStages * kStageBytes<true> + totals) << file;
  }
  EXPECT_EQ(Declared("products_halves", "ManyRows<.*>"), kStages * kStageBytes<false> + totals);
}

}  // namespace
}  // namespace dunlin::kernels::cuda
