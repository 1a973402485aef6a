// The kernels in NEON with the dot products of Armv8.2. The target is set for the code below alone, as in
// target_avx2.cc.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/isa/targets.h"
#include "kernels/quant_format.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define DUNLIN_NEON
#define DUNLIN_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace dunlin::kernels::cpu::neon_target {
namespace {
#include "kernels/cpu/isa/vec_neon.inc"
}  // namespace
#include "kernels/cpu/isa/kernels.inc"
}  // namespace dunlin::kernels::cpu::neon_target

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace dunlin::kernels::cpu::neon_target {
constinit const KernelTable kTable = MakeTable(Isa::kNeon);
}  // namespace dunlin::kernels::cpu::neon_target
#endif  // __aarch64__
