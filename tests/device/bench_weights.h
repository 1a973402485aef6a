// Packed matrices of random numbers for the benchmarks.
// Thread-safety: one thread.  Owns: nothing; the arena does.  Errors: empty where memory ran out.  Source: ours.
#ifndef DUNLIN_TESTS_DEVICE_BENCH_WEIGHTS_H_
#define DUNLIN_TESTS_DEVICE_BENCH_WEIGHTS_H_

#include <vector>

#include "kernels/cuda/matrix.h"

namespace dunlin::kernels::cuda::bench {

// `count` equal matrices, each in memory of its own.
std::vector<CudaMatrix> RandomMatrices(DType type, int rows, int cols, int count, WeightArena* arena);

}  // namespace dunlin::kernels::cuda::bench

#endif  // DUNLIN_TESTS_DEVICE_BENCH_WEIGHTS_H_
