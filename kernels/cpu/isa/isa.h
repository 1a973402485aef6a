// Which instruction set family the CPU kernels use: chosen once at start, the best that the processor has, or the one
// that the environment variable DUNLIN_ISA names (so one machine can test them all). Thread-safety: pure functions.
// Errors: SelectIsa returns nullopt and says which names are allowed.  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_ISA_ISA_H_
#define DUNLIN_KERNELS_CPU_ISA_ISA_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dunlin::kernels::cpu {

enum class Isa : uint8_t {
  kScalar,
  kAvx2,        // AVX2, FMA, F16C
  kAvxVnni,     // and VEX-coded 256-bit VNNI dot products
  kAvx512Vnni,  // the same kernels with 256-bit VNNI dot products and 32 registers (AVX-512 F, BW, DQ, VL, VNNI)
  kNeon,        // NEON with the dot products of Armv8.2 (dotprod)
  kNeonI8mm,    // and the 8-bit matrix products of Armv8.6 (i8mm)
};

const char* IsaName(Isa isa);  // "scalar", "avx2", "avxvnni", "avx512vnni", "neon", "neon_i8mm"

// What this build has and this processor can run, worst first. Never empty.
std::vector<Isa> SupportedIsas();

// forced: the value of DUNLIN_ISA, a family's name or "avx512"; nullptr or "" = the best supported.
std::optional<Isa> SelectIsa(const char* forced, std::string* error);

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ISA_ISA_H_
