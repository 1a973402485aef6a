// The AVX2 kernels with the VEX-coded 256-bit dot products of AVX-VNNI. See target_avx2.cc.

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

#define DUNLIN_AVXVNNI
#define DUNLIN_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

namespace dunlin::kernels::cpu::avxvnni_target {
namespace {
#include "kernels/cpu/isa/vec_avx2.inc"
}  // namespace
#include "kernels/cpu/isa/kernels.inc"
}  // namespace dunlin::kernels::cpu::avxvnni_target

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace dunlin::kernels::cpu::avxvnni_target {
constinit const KernelTable kTable = MakeTable(Isa::kAvxVnni);
}  // namespace dunlin::kernels::cpu::avxvnni_target
#endif  // __x86_64__
