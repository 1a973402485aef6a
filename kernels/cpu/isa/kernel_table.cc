#include "kernels/cpu/isa/kernel_table.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/isa/targets.h"

namespace dunlin::kernels::cpu {

const KernelTable& GetKernels(Isa isa) {
  const std::vector<Isa> supported = SupportedIsas();
  CHECK(std::find(supported.begin(), supported.end(), isa) != supported.end()) << "kernels of " << IsaName(isa);
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return avx2_target::kTable;
  if (isa == Isa::kAvxVnni) return avxvnni_target::kTable;
  if (isa == Isa::kAvx512Vnni) return avx512vnni_target::kTable;
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) return neon_target::kTable;
  if (isa == Isa::kNeonI8mm) return neon_i8mm_target::kTable;
#endif
  return scalar_target::kTable;
}

}  // namespace dunlin::kernels::cpu
