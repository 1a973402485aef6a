// The NEON kernels with the 8-bit matrix products of Armv8.6. See target_neon.cc.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/isa/targets.h"
#include "kernels/quant_format.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define DUNLIN_I8MM
#define DUNLIN_NEON
#define DUNLIN_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif

namespace dunlin::kernels::cpu::neon_i8mm_target {
namespace {
#include "kernels/cpu/isa/vec_neon.inc"
}  // namespace
#include "kernels/cpu/isa/kernels.inc"
}  // namespace dunlin::kernels::cpu::neon_i8mm_target

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace dunlin::kernels::cpu::neon_i8mm_target {
constinit const KernelTable kTable = MakeTable(Isa::kNeonI8mm);
}  // namespace dunlin::kernels::cpu::neon_i8mm_target
#endif  // __aarch64__
