// The kernels in AVX-512 with VNNI dot products; eight-lane operations as in AVX2. See target_avx2.cc.

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

#define DUNLIN_AVX512
#define DUNLIN_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), \
                             apply_to = function)
#else
// GCC 12 takes the "undefined" operand of its own AVX-512 intrinsics for an uninitialised variable (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif

namespace dunlin::kernels::cpu::avx512vnni_target {
namespace {
#include "kernels/cpu/isa/vec_avx2.inc"
#include "kernels/cpu/isa/vec_avx512.inc"
}  // namespace
#include "kernels/cpu/isa/kernels.inc"
}  // namespace dunlin::kernels::cpu::avx512vnni_target

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace dunlin::kernels::cpu::avx512vnni_target {
constinit const KernelTable kTable = MakeTable(Isa::kAvx512Vnni);
}  // namespace dunlin::kernels::cpu::avx512vnni_target
#endif  // __x86_64__
