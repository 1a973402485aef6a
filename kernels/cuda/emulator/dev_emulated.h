// dev.h for g++: each name on the emulator. Included by dev.h only; names and meaning are documented there.
// Thread-safety, errors: as emulator.h.  Source: PTX ISA 8.x for the fragments' layouts.
#ifndef DUNLIN_KERNELS_CUDA_EMULATOR_DEV_EMULATED_H_
#define DUNLIN_KERNELS_CUDA_EMULATOR_DEV_EMULATED_H_

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/emulator/emulator.h"
#include "kernels/cuda/emulator/warp_matrices.h"

#define DUNLIN_DEV inline
#define DUNLIN_UNROLL
#define DUNLIN_ROLL
#define DUNLIN_KERNEL(threads, blocks_per_sm) [[maybe_unused]] static

namespace dunlin::kernels::cuda::dev {

inline int ThreadX() { return emulator::CurrentThread().index; }
inline int BlockX() { return emulator::CurrentBlock().block.x; }
inline int BlockY() { return emulator::CurrentBlock().block.y; }
inline int BlockZ() { return emulator::CurrentBlock().block.z; }
inline int GridX() { return emulator::CurrentBlock().grid.x; }
inline int GridY() { return emulator::CurrentBlock().grid.y; }
inline int Lane() { return ThreadX() % emulator::kWarpSize; }
inline int Warp() { return ThreadX() / emulator::kWarpSize; }
inline uint8_t* Shared() { return emulator::CurrentBlock().shared; }

inline void SyncThreads() { emulator::BlockBarrier(); }
inline void SyncWarp() {
  emulator::WarpCollective("SyncWarp", nullptr, [](void* const*) {});
}
inline void ThreadFence() {}

inline void CopyAsync16(void* shared, const void* global, bool valid) { emulator::CopyAsync(shared, global, valid); }
inline void CopyAsyncCommit() { emulator::CommitCopies(); }
template <int N>
void CopyAsyncWait() {
  emulator::WaitCopies(N);
}

template <typename T>
T LoadAs(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline U4 LoadStream16(const void* global) {
  emulator::CheckAligned(global, 16, "LoadStream16");
  return LoadAs<U4>(global);
}
inline U4 LoadGlobal16(const void* global) {
  emulator::CheckAligned(global, 16, "LoadGlobal16");
  return LoadAs<U4>(global);
}
inline uint32_t LoadReadOnly4(const void* global) {
  emulator::CheckAligned(global, 4, "LoadReadOnly4");
  return LoadAs<uint32_t>(global);
}
inline U2 LoadReadOnly8(const void* global) {
  emulator::CheckAligned(global, 8, "LoadReadOnly8");
  return LoadAs<U2>(global);
}
inline U4 LoadReadOnly16(const void* global) {
  emulator::CheckAligned(global, 16, "LoadReadOnly16");
  return LoadAs<U4>(global);
}
inline U4 LoadShared16(const void* shared) {
  emulator::CheckShared(shared, 16, "LoadShared16");
  return LoadAs<U4>(shared);
}
inline U2 LoadShared8(const void* shared) {
  emulator::CheckShared(shared, 8, "LoadShared8");
  return LoadAs<U2>(shared);
}

inline void MmaF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::MmaSlot<float> slot{d, a, b};
  emulator::WarpCollective("MmaF16", &slot, emulator::MmaF16);
}
inline void MmaS8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulator::MmaSlot<int32_t> slot{d, a, b};
  emulator::WarpCollective("MmaS8", &slot, emulator::MmaS8);
}
inline uint32_t Movmatrix(uint32_t x) {
  emulator::WarpCollective("Movmatrix", &x, emulator::TransposeMatrix);
  return x;
}
inline void LdMatrix4(uint32_t (&r)[4], const void* shared) {
  emulator::CheckShared(shared, 16, "LdMatrix4");
  emulator::LdMatrixSlot slot{r, shared};
  emulator::WarpCollective("LdMatrix4", &slot, emulator::LoadMatrices);
}
inline void LdMatrix4Trans(uint32_t (&r)[4], const void* shared) {
  emulator::CheckShared(shared, 16, "LdMatrix4Trans");
  emulator::LdMatrixSlot slot{r, shared};
  emulator::WarpCollective("LdMatrix4Trans", &slot, emulator::LoadMatricesTransposed);
}

template <typename T>
struct ShuffleSlot {
  T value;
  int lane;
};
template <typename T>
T Shuffle(T value, int lane) {
  static_assert(std::is_trivially_copyable_v<T>);
  ShuffleSlot<T> slot{value, lane & 31};
  emulator::WarpCollective("Shuffle", &slot, [](void* const* slots) {
    T values[emulator::kWarpSize];
    for (int i = 0; i < emulator::kWarpSize; ++i) values[i] = static_cast<ShuffleSlot<T>*>(slots[i])->value;
    for (int i = 0; i < emulator::kWarpSize; ++i) {
      auto* s = static_cast<ShuffleSlot<T>*>(slots[i]);
      s->value = values[s->lane];
    }
  });
  return slot.value;
}
template <typename T>
T ShuffleXor(T value, int mask) {
  return Shuffle(value, Lane() ^ mask);
}
inline uint32_t Ballot(bool p) {
  uint32_t slot = p ? 1 : 0;
  emulator::WarpCollective("Ballot", &slot, [](void* const* slots) {
    uint32_t all = 0;
    for (int i = 0; i < emulator::kWarpSize; ++i) all |= *static_cast<uint32_t*>(slots[i]) << i;
    for (int i = 0; i < emulator::kWarpSize; ++i) *static_cast<uint32_t*>(slots[i]) = all;
  });
  return slot;
}

inline uint32_t FloatBits(float x) { return std::bit_cast<uint32_t>(x); }
inline float BitsToFloat(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t PackHalf2(float low, float high) {
  return emulator::HalfBits(low) | static_cast<uint32_t>(emulator::HalfBits(high)) << 16;
}
inline float HalfLow(uint32_t half2) { return emulator::HalfValue(static_cast<uint16_t>(half2)); }
inline float HalfHigh(uint32_t half2) { return emulator::HalfValue(static_cast<uint16_t>(half2 >> 16)); }
// Products of halves are exact in float; a sum with one in double.
inline uint32_t HalfMul2(uint32_t a, uint32_t b) {
  return PackHalf2(HalfLow(a) * HalfLow(b), HalfHigh(a) * HalfHigh(b));
}
inline uint16_t HalfFma(float a, float b, float c) {
  return emulator::HalfBits(static_cast<float>(static_cast<double>(a) * b + c));
}
inline uint32_t HalfFma2(uint32_t a, uint32_t b, uint32_t c) {
  return HalfFma(HalfLow(a), HalfLow(b), HalfLow(c)) |
         static_cast<uint32_t>(HalfFma(HalfHigh(a), HalfHigh(b), HalfHigh(c))) << 16;
}

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double Fma(double a, double b, double c) { return std::fma(a, b, c); }
inline float Exp2(float x) { return std::exp2(x); }
inline float Log2(float x) { return std::log2(x); }
inline float Rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float Sqrt(float x) { return std::sqrt(x); }
// As the hardware: NaN gives 0, and what does not fit the nearest that does.
inline int32_t RoundToInt(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 2147483648.0f) return INT32_MAX;
  if (x < -2147483648.0f) return INT32_MIN;
  return static_cast<int32_t>(std::nearbyint(x));
}
inline int32_t Dp4a(uint32_t a, uint32_t b, int32_t c) {
  auto sum = static_cast<uint32_t>(c);
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<uint32_t>(static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i));
  }
  return static_cast<int32_t>(sum);
}
inline int32_t Dp2a(uint32_t a, uint32_t b, int32_t c) {
  const int low = static_cast<int16_t>(a) * static_cast<int8_t>(b);
  const int high = static_cast<int16_t>(a >> 16) * static_cast<int8_t>(b >> 8);
  return static_cast<int32_t>(static_cast<uint32_t>(c) + static_cast<uint32_t>(low) + static_cast<uint32_t>(high));
}
inline uint32_t BytePermute(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<uint32_t>(both >> (8 * ((selector >> (4 * i)) & 7)) & 0xFF) << (8 * i);
  return r;
}
inline int PopCount(uint32_t x) { return std::popcount(x); }

template <typename T>
T AtomicAdd(T* p, T x) {
  static_assert(std::is_integral_v<T>);
  const T old = *p;
  *p = static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + static_cast<std::make_unsigned_t<T>>(x));
  return old;
}
inline uint32_t AtomicMax(uint32_t* p, uint32_t x) {
  const uint32_t old = *p;
  *p = old > x ? old : x;
  return old;
}

}  // namespace dunlin::kernels::cuda::dev

#endif  // DUNLIN_KERNELS_CUDA_EMULATOR_DEV_EMULATED_H_
