// The kernels in plain C++.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/isa/targets.h"
#include "kernels/quant_format.h"

#define DUNLIN_INLINE inline

namespace dunlin::kernels::cpu::scalar_target {
namespace {
#include "kernels/cpu/isa/vec_scalar.inc"
}  // namespace
#include "kernels/cpu/isa/kernels.inc"

constinit const KernelTable kTable = MakeTable(Isa::kScalar);

}  // namespace dunlin::kernels::cpu::scalar_target
