// The matrix instructions of a warp as plain loops over the 32 lanes' fragments, and halves as the emulator computes
// them. Thread-safety: pure functions.  Errors: none.  Source: PTX ISA 8.x ("Matrix Fragments for mma.m16n8k16",
// "…k32", "movmatrix", "ldmatrix"). Sums: exact products, added in double, rounded once to float (hardware truncates
// somewhere between; tests allow for either).
#ifndef DUNLIN_KERNELS_CUDA_EMULATOR_WARP_MATRICES_H_
#define DUNLIN_KERNELS_CUDA_EMULATOR_WARP_MATRICES_H_

#include <cstdint>

namespace dunlin::kernels::cuda::emulator {

template <typename T>
struct MmaSlot {
  T* d;               // [4]
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
};
struct LdMatrixSlot {
  uint32_t* r;  // [4]
  const void* row;
};

void MmaF16(void* const* slots);           // MmaSlot<float>
void MmaS8(void* const* slots);            // MmaSlot<int32_t>
void TransposeMatrix(void* const* slots);  // uint32_t
void LoadMatrices(void* const* slots);     // LdMatrixSlot
void LoadMatricesTransposed(void* const* slots);

float HalfValue(uint16_t bits);
uint16_t HalfBits(float value);

}  // namespace dunlin::kernels::cuda::emulator

#endif  // DUNLIN_KERNELS_CUDA_EMULATOR_WARP_MATRICES_H_
