// The dynamic shared memory that attention's kernels are launched with, by the names that declared.tsv uses. Two units,
// because the two kernels' headers are not made to be included together.
// Thread-safety: pure.  Source: ours.
#ifndef DUNLIN_TESTS_KERNELS_CUDA_GATES_DECLARED_SHARED_H_
#define DUNLIN_TESTS_KERNELS_CUDA_GATES_DECLARED_SHARED_H_

#include <string>
#include <vector>

namespace dunlin::kernels::cuda::testing {

struct KernelShared {
  std::string file;
  std::string kernel;
  int bytes;
};
std::vector<KernelShared> DecodeShared();
std::vector<KernelShared> PrefillShared();

}  // namespace dunlin::kernels::cuda::testing

#endif  // DUNLIN_TESTS_KERNELS_CUDA_GATES_DECLARED_SHARED_H_
