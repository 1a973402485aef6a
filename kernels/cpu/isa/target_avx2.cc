// The kernels in AVX2, FMA and F16C. The target is set for the code below alone: standard headers are compiled for the
// baseline, so no inline function of theirs can leak these instructions into the rest of the program.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/isa/targets.h"
#include "kernels/quant_format.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define DUNLIN_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace dunlin::kernels::cpu::avx2_target {
namespace {
#include "kernels/cpu/isa/vec_avx2.inc"
}  // namespace
#include "kernels/cpu/isa/kernels.inc"
}  // namespace dunlin::kernels::cpu::avx2_target

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace dunlin::kernels::cpu::avx2_target {
constinit const KernelTable kTable = MakeTable(Isa::kAvx2);
}  // namespace dunlin::kernels::cpu::avx2_target
#endif  // __x86_64__
