// dev.h for nvcc: each name is one instruction. Included by dev.h only; names and meaning are documented there.
// Thread-safety, errors: as dev.h.  Source: PTX ISA 8.x (sm_80 and later; E4M3 conversion from sm_89).
#ifndef DUNLIN_KERNELS_CUDA_DEV_PTX_H_
#define DUNLIN_KERNELS_CUDA_DEV_PTX_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/dev.h"

#define DUNLIN_DEV __device__ __forceinline__
#define DUNLIN_UNROLL _Pragma("unroll")
#define DUNLIN_ROLL _Pragma("unroll 1")
#define DUNLIN_KERNEL(threads, blocks_per_sm) static __global__ __launch_bounds__(threads, blocks_per_sm)

namespace dunlin::kernels::cuda::dev {

extern __shared__ __align__(128) uint8_t dunlin_shared[];

DUNLIN_DEV int ThreadX() { return static_cast<int>(threadIdx.x); }
DUNLIN_DEV int BlockX() { return static_cast<int>(blockIdx.x); }
DUNLIN_DEV int BlockY() { return static_cast<int>(blockIdx.y); }
DUNLIN_DEV int BlockZ() { return static_cast<int>(blockIdx.z); }
DUNLIN_DEV int GridX() { return static_cast<int>(gridDim.x); }
DUNLIN_DEV int GridY() { return static_cast<int>(gridDim.y); }
DUNLIN_DEV int Lane() { return static_cast<int>(threadIdx.x) & 31; }
DUNLIN_DEV int Warp() { return static_cast<int>(threadIdx.x) >> 5; }
DUNLIN_DEV uint8_t* Shared() { return dunlin_shared; }

DUNLIN_DEV void SyncThreads() { __syncthreads(); }
DUNLIN_DEV void SyncWarp() { __syncwarp(); }
DUNLIN_DEV void ThreadFence() { __threadfence(); }

DUNLIN_DEV uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

DUNLIN_DEV void CopyAsync16(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
DUNLIN_DEV void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DUNLIN_DEV void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

DUNLIN_DEV U4 LoadStream16(const void* global) {
  U4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}
DUNLIN_DEV U4 LoadGlobal16(const void* global) { return *static_cast<const U4*>(global); }
DUNLIN_DEV uint32_t LoadReadOnly4(const void* global) {
  uint32_t v;
  asm("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(global));
  return v;
}
DUNLIN_DEV U2 LoadReadOnly8(const void* global) {
  U2 v;
  asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(global));
  return v;
}
DUNLIN_DEV U4 LoadReadOnly16(const void* global) {
  U4 v;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(global));
  return v;
}
DUNLIN_DEV U4 LoadShared16(const void* shared) {
  U4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(SharedAddress(shared))
               : "memory");
  return v;
}
DUNLIN_DEV U2 LoadShared8(const void* shared) {
  U2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(SharedAddress(shared)) : "memory");
  return v;
}

DUNLIN_DEV void MmaF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DUNLIN_DEV void MmaS8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DUNLIN_DEV uint32_t Movmatrix(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
DUNLIN_DEV void LdMatrix4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
}
DUNLIN_DEV void LdMatrix4Trans(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared))
               : "memory");
}

template <typename T>
DUNLIN_DEV T Shuffle(T value, int lane) {
  return __shfl_sync(kFullMask, value, lane);
}
template <typename T>
DUNLIN_DEV T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(kFullMask, value, mask);
}
DUNLIN_DEV uint32_t Ballot(bool p) { return __ballot_sync(kFullMask, p); }

DUNLIN_DEV uint32_t FloatBits(float x) { return __float_as_uint(x); }
DUNLIN_DEV float BitsToFloat(uint32_t x) { return __uint_as_float(x); }
DUNLIN_DEV uint32_t PackHalf2(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DUNLIN_DEV float HalfLow(uint32_t half2) {
  float r;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(r) : "r"(half2));
  return r;
}
DUNLIN_DEV float HalfHigh(uint32_t half2) {
  float r;
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(r) : "r"(half2));
  return r;
}
DUNLIN_DEV uint32_t HalfMul2(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
DUNLIN_DEV uint32_t HalfFma2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
DUNLIN_DEV void HardwareE4M3ToHalf(uint32_t codes, uint32_t (&half2)[2]) {
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h;}"
      : "=r"(half2[0]), "=r"(half2[1])
      : "r"(codes));
}
#endif

DUNLIN_DEV float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DUNLIN_DEV double Fma(double a, double b, double c) { return __fma_rn(a, b, c); }
DUNLIN_DEV float Exp2(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
DUNLIN_DEV float Log2(float x) {
  float r;
  asm("lg2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
DUNLIN_DEV float Rsqrt(float x) { return 1.0f / __fsqrt_rn(x); }
DUNLIN_DEV float Sqrt(float x) { return __fsqrt_rn(x); }
DUNLIN_DEV int32_t RoundToInt(float x) { return __float2int_rn(x); }
DUNLIN_DEV int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  return __dp4a(static_cast<int32_t>(a), static_cast<int32_t>(b), c);
}
DUNLIN_DEV int32_t Dp2a(uint32_t a, uint32_t b, int32_t c) {
  return __dp2a_lo(static_cast<int>(a), static_cast<int>(b), c);
}
DUNLIN_DEV uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
DUNLIN_DEV int PopCount(uint32_t x) { return __popc(x); }

DUNLIN_DEV uint32_t AtomicAdd(uint32_t* p, uint32_t x) { return atomicAdd(p, x); }
DUNLIN_DEV int32_t AtomicAdd(int32_t* p, int32_t x) { return atomicAdd(p, x); }
DUNLIN_DEV uint64_t AtomicAdd(uint64_t* p, uint64_t x) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x));
}
DUNLIN_DEV uint32_t AtomicMax(uint32_t* p, uint32_t x) { return atomicMax(p, x); }

}  // namespace dunlin::kernels::cuda::dev

#endif  // DUNLIN_KERNELS_CUDA_DEV_PTX_H_
