// The tables of the compiled families, and types that their texts share (private to kernels/cpu/isa). Thread-safety:
// constants.
#ifndef DUNLIN_KERNELS_CPU_ISA_TARGETS_H_
#define DUNLIN_KERNELS_CPU_ISA_TARGETS_H_

#include "kernels/cpu/isa/kernel_table.h"

namespace dunlin::kernels::cpu {

// Sums of the codes of an ActivationBlock: of the first 16, and of all.
struct CodeSums {
  int32_t low;
  int32_t all;
};

namespace scalar_target {
extern const KernelTable kTable;
}
#if defined(__x86_64__)
namespace avx2_target {
extern const KernelTable kTable;
}
namespace avxvnni_target {
extern const KernelTable kTable;
}
namespace avx512vnni_target {
extern const KernelTable kTable;
}
#elif defined(__aarch64__)
namespace neon_target {
extern const KernelTable kTable;
}
namespace neon_i8mm_target {
extern const KernelTable kTable;
}
#endif

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ISA_TARGETS_H_
