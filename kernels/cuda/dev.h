// What kernels may ask of the machine: thin names for the few instructions that the CUDA kernels are made of. nvcc gets
// PTX (dev_ptx.h); g++ gets the emulator (emulator/dev_emulated.h), so that one kernel source runs on both. A kernel is
// a DUNLIN_KERNEL function of plain arguments; it uses nothing of CUDA but what is declared here.
//
//   DUNLIN_KERNEL(128, 4) void Scale(const float* in, float factor, int n, float* out) { … }
//   DUNLIN_LAUNCH(device, (LaunchConfig{.grid_x = 7}), Scale, in, factor, n, out);
//
// where 128 is the block's threads and 4 the blocks that a multiprocessor must hold (launch.h has the rest).
// Both files define, in namespace dev:
//
//   places    ThreadX BlockX BlockY BlockZ GridX GridY; Lane = ThreadX % 32, Warp = ThreadX / 32 (blocks are 1-D and
//             whole warps); Shared: the block's dynamic shared memory, 128-byte aligned, never initialised
//   order     SyncThreads (all threads of the block), SyncWarp (all 32 lanes), ThreadFence
//   copies    CopyAsync16(to shared, from global, valid): 16 aligned bytes, zeros where !valid; CopyAsyncCommit;
//             CopyAsyncWait<N>: all but the last N groups of this thread have landed, for this thread; the others see
//             them after the next barrier
//   loads     LoadStream16: global, read once (past L1); LoadGlobal16; LoadReadOnly4, 8 and 16: global that nobody
//             writes during the launch; LoadShared16, LoadShared8; all aligned
//   matrices  MmaF16 (m16n8k16, f16 in, f32 sums), MmaS8 (m16n8k32, s8 in, s32 sums, exact), Movmatrix (transposes an
//             8x8 of 16-bit values), LdMatrix4(Trans): four 8x8 of 16-bit values, lane l gives row l's address.
//             Fragments as PTX defines them; g = Lane / 4, t = Lane % 4:
//               A f16 [16][16]  a0 (g, 2t…)  a1 (g+8, 2t…)  a2 (g, 2t+8…)   a3 (g+8, 2t+8…)    two values each
//               A s8  [16][32]  a0 (g, 4t…)  a1 (g+8, 4t…)  a2 (g, 4t+16…)  a3 (g+8, 4t+16…)   four values each
//               B f16 [16][8]   b0 (2t…, g)  b1 (2t+8…, g)
//               B s8  [32][8]   b0 (4t…, g)  b1 (4t+16…, g)
//               C     [16][8]   c0 (g, 2t)   c1 (g, 2t+1)   c2 (g+8, 2t)    c3 (g+8, 2t+1)
//   lanes     Shuffle(value, lane) ShuffleXor(value, mask), of 32 and 64 bits; Ballot(bool); all 32 lanes call them
//   halves    PackHalf2(low, high) HalfLow HalfHigh HalfMul2 HalfFma2; values live as bits in uint32_t
//   numbers   Fma Exp2 (approximate, 2 ulp) Log2 (approximate) Rsqrt Sqrt RoundToInt (nearest even) PopCount
//             Dp4a (s8 x s8 + s32) Dp2a(a, b, c): c + the s16 of a times the low two s8 of b
//             BytePermute(a, b, selector: PTX prmt) FloatBits BitsToFloat
//   atomics   AtomicAdd (u32, s32, u64), AtomicMax (u32): global or shared, relaxed; integers only, so that no result
//             depends on their order
//
// DUNLIN_UNROLL before a loop over register arrays: an index that is not known at compile time would move them to local
// memory, which the build refuses. DUNLIN_ROLL before one that is to stay a loop. A kernel has static linkage;
// templates of kernels are instantiated where launched.
//
// Rounding: nvcc compiles with -fmad=false and g++ with -ffp-contract=off, so a * b + c is two roundings everywhere;
// ask for Fma where one is wanted. Plain loads and stores of global and shared memory are plain C++.
//
// Thread-safety: device code. Errors: under the emulator a broken rule (divergence at a collective, a misaligned or
// outside access, a barrier not all reach) fails the launch with its name; on a device it is undefined behaviour.
// Source: PTX ISA 8.x; ours.
#ifndef DUNLIN_KERNELS_CUDA_DEV_H_
#define DUNLIN_KERNELS_CUDA_DEV_H_

#include <cstddef>
#include <cstdint>

namespace dunlin::kernels::cuda::dev {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kFullMask = 0xFFFFFFFFu;

struct U2 {
  uint32_t x, y;
};
struct alignas(16) U4 {
  uint32_t x, y, z, w;
};

}  // namespace dunlin::kernels::cuda::dev

#if defined(__CUDACC__)
#include "kernels/cuda/dev_ptx.h"
#else
#include "kernels/cuda/emulator/dev_emulated.h"
#endif

namespace dunlin::kernels::cuda::dev {

// ---- Made of the above; the same code on both. ----

// Butterflies: every lane gets the result, the same bits in all.
DUNLIN_DEV float WarpSum(float x) {
  DUNLIN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += ShuffleXor(x, mask);
  return x;
}
DUNLIN_DEV float WarpMax(float x) {
  DUNLIN_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = ShuffleXor(x, mask);
    x = x > other ? x : other;
  }
  return x;
}

// Four E4M3 codes to four halves (0, 1 in half2[0]; 2, 3 in half2[1]), each times 1 / kE4M3Unit, exact for every
// finite code. Fold kE4M3Unit into a scale. The NaN codes give 480 / kE4M3Unit in software and NaN in hardware: never
// stored, and a slot that nobody wrote must be masked.
#if defined(__CUDACC__) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890 && !defined(DUNLIN_CUDA_SOFT_FP8)
inline constexpr float kE4M3Unit = 1.0f;
DUNLIN_DEV void E4M3ToHalf(uint32_t codes, uint32_t (&half2)[2]) { HardwareE4M3ToHalf(codes, half2); }
#else
inline constexpr float kE4M3Unit = 256.0f;
// Sign to the half's sign, exponent and mantissa one bit below its exponent's end: the half's bias is 15, ours 7, so
// the value is 2^-8 of the code's, subnormals included.
DUNLIN_DEV void E4M3ToHalf(uint32_t codes, uint32_t (&half2)[2]) {
  const uint32_t low = BytePermute(codes, 0, 0x1404);   // bytes 0 and 1, each in the high byte of a half
  const uint32_t high = BytePermute(codes, 0, 0x3424);  // bytes 2 and 3
  half2[0] = (low & 0x80008000u) | ((low & 0x7F007F00u) >> 1);
  half2[1] = (high & 0x80008000u) | ((high & 0x7F007F00u) >> 1);
}
#endif

// Four int8 codes to four halves, exact.
DUNLIN_DEV void Int8ToHalf(uint32_t codes, uint32_t (&half2)[2]) {
  // 1024 + (code + 128) as half is 0x6400 | (code + 128); then 1152 is taken off exactly.
  const uint32_t biased = codes ^ 0x80808080u;
  half2[0] = HalfFma2(BytePermute(biased, 0x64646464u, 0x4140), 0x3C003C00u, 0xE480E480u);
  half2[1] = HalfFma2(BytePermute(biased, 0x64646464u, 0x4342), 0x3C003C00u, 0xE480E480u);
}

// As FloatToE4M3 of paged_kv.h for finite values: nearest even, saturating.
DUNLIN_DEV uint8_t FloatToE4M3(float value) {
  const uint32_t all = FloatBits(value);
  const uint32_t sign = (all >> 24) & 0x80u;
  const uint32_t magnitude = all & 0x7FFFFFFFu;
  const float a = BitsToFloat(magnitude);
  if (!(a <= 448.0f)) return static_cast<uint8_t>(sign | 0x7Eu);
  if (a < 0x1p-6f) return static_cast<uint8_t>(sign | static_cast<uint32_t>(RoundToInt(a * 0x1p9f)));
  const uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u);
  const uint32_t code = (rounded >> 20) - ((127u - 7u) << 3);
  return static_cast<uint8_t>(sign | (code < 0x7Eu ? code : 0x7Eu));
}

}  // namespace dunlin::kernels::cuda::dev

#endif  // DUNLIN_KERNELS_CUDA_DEV_H_
