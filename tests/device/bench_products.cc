// Weight products at the shapes of an 8B model's layer. A rotation's matrices are copies of one packed matrix.
#include <string>
#include <vector>

#include "kernels/cuda/prepare.h"
#include "kernels/cuda/products.h"
#include "kernels/quant_format.h"
#include "tests/device/bench.h"
#include "tests/device/bench_cache.h"
#include "tests/device/bench_weights.h"

namespace dunlin::kernels::cuda::bench {
namespace {

struct Case {
  const char* name;
  DType type;
  int rows, cols;
  int tokens;
  double target;  // of the copy's bandwidth; 0: the case is about operations
};
constexpr Case kCases[] = {
    {"GEMV 4 bit, 4096 x 4096, 1 token", DType::kQ4_0, 4096, 4096, 1, 0.80},
    {"GEMV 4 bit, 14336 x 4096, 1 token", DType::kQ4_0, 14336, 4096, 1, 0.80},
    {"GEMV 4 bit, 4096 x 14336, 1 token", DType::kQ4_0, 4096, 14336, 1, 0.80},
    {"GEMV 4 bit with minima, 14336 x 4096, 1 token", DType::kQ4_K, 14336, 4096, 1, 0.80},
    {"GEMV 8 bit, 14336 x 4096, 1 token", DType::kQ8_0, 14336, 4096, 1, 0.80},
    {"GEMV f16, 4096 x 4096, 1 token", DType::kF16, 4096, 4096, 1, 0.80},
    {"GEMV 4 bit, 14336 x 4096, 4 tokens", DType::kQ4_0, 14336, 4096, 4, 0.80},
    {"GEMM 4 bit, 14336 x 4096, 16 tokens", DType::kQ4_0, 14336, 4096, 16, 0.80},
    {"GEMM 4 bit, 14336 x 4096, 64 tokens", DType::kQ4_0, 14336, 4096, 64, 0},
    {"GEMM 4 bit, 14336 x 4096, 512 tokens", DType::kQ4_0, 14336, 4096, 512, 0},
    {"GEMM 4 bit, 14336 x 4096, 2048 tokens", DType::kQ4_0, 14336, 4096, 2048, 0},
    {"GEMM f16, 4096 x 4096, 512 tokens", DType::kF16, 4096, 4096, 512, 0},
};

void RunCase(Bench* bench, const Case& c) {
  const std::string name = std::string("product ") + c.name;
  if (!bench->Wants(name)) return;
  Device* device = bench->device();
  WeightArena arena(device);
  const int sets = c.target > 0 ? bench->Sets(static_cast<size_t>(c.rows) * RowBytes(c.type, c.cols)) : 4;
  const std::vector<CudaMatrix> matrices = RandomMatrices(c.type, c.rows, c.cols, sets, &arena);
  const auto tokens = static_cast<size_t>(c.tokens);
  const DeviceBuffer<float> x = NormalFloats(device, tokens * static_cast<size_t>(c.cols));
  const DeviceBuffer<float> out(device, tokens * static_cast<size_t>(c.rows));
  const PreparedBuffer buffer(device, c.tokens, c.cols);
  if (matrices.empty() || x.data() == nullptr || out.data() == nullptr || !buffer.ok()) {
    return bench->PrintSkipped(name, "not enough memory on the device");
  }
  const PreparedRows in = matrices[0].takes_codes() ? buffer.Codes(c.tokens, c.cols) : buffer.Halves(c.tokens, c.cols);
  Prepare(device, {.x = x.data()}, in);
  const double seconds = bench->Seconds(sets, [&](int set) {
    Multiply(device, matrices[static_cast<size_t>(set)], in, nullptr, {.out = out.data(), .ld = c.rows});
  });
  if (c.target > 0) return bench->PrintBandwidth(name, static_cast<double>(matrices[0].bytes), seconds, c.target);
  bench->PrintCompute(name, 2.0 * c.rows * c.cols * c.tokens, seconds);
}

}  // namespace

void BenchProducts(Bench* bench) {
  for (const Case& c : kCases) RunCase(bench, c);
}

}  // namespace dunlin::kernels::cuda::bench
