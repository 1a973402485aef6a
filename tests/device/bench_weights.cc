#include "tests/device/bench_weights.h"

#include <random>

#include "kernels/quant_format.h"

namespace dunlin::kernels::cuda::bench {
namespace {

// Blocks of a file whose numbers are finite: any f16 among them has its top exponent bit cleared.
std::vector<uint8_t> RandomBlocks(size_t bytes) {
  std::mt19937 random(5);
  std::vector<uint8_t> out(bytes);
  for (uint8_t& b : out) b = static_cast<uint8_t>(random() & 0xBF);
  return out;
}

}  // namespace

std::vector<CudaMatrix> RandomMatrices(DType type, int rows, int cols, int count, WeightArena* arena) {
  CudaMatrix first;
  const size_t bytes = static_cast<size_t>(rows) * RowBytes(type, cols);
  if (!PackMatrix(type, rows, cols, RandomBlocks(bytes), arena, &first)) return {};
  std::vector<CudaMatrix> out = {first};
  for (int i = 1; i < count; ++i) {
    CudaMatrix copy = first;
    uint8_t* data = arena->Add(first.bytes);
    if (data == nullptr) return {};
    arena->device()->CopyOnDevice(data, first.data, first.bytes);
    copy.data = data;
    out.push_back(copy);
  }
  arena->device()->Synchronize();
  return out;
}

}  // namespace dunlin::kernels::cuda::bench
