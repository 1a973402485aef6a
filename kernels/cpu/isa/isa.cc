#include "kernels/cpu/isa/isa.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace dunlin::kernels::cpu {
namespace {

#if defined(__x86_64__)

// Feature bits that clang 14's __builtin_cpu_supports does not know. (Whether the system saves the wide registers is
// part of the answer for "avx2".)
bool HasF16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}
bool HasAvxVnni() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 4)) != 0;
}

bool Supported(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
    case Isa::kAvxVnni:
      return Supported(Isa::kAvx2) && HasAvxVnni();
    case Isa::kAvx512Vnni:
      return Supported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
    case Isa::kNeon:
    case Isa::kNeonI8mm:
      return false;
  }
  return false;
}

#elif defined(__aarch64__)

bool Supported(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kNeon:
      return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    case Isa::kNeonI8mm:
      return Supported(Isa::kNeon) && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
    case Isa::kAvx2:
    case Isa::kAvxVnni:
    case Isa::kAvx512Vnni:
      return false;
  }
  return false;
}

#else

bool Supported(Isa isa) { return isa == Isa::kScalar; }

#endif

struct Name {
  const char* name;
  Isa isa;
};
// Worst first within an architecture; a family's own name before the others that stand for it.
constexpr Name kNames[] = {
    {"scalar", Isa::kScalar},     {"avx2", Isa::kAvx2}, {"avxvnni", Isa::kAvxVnni},    {"avx512vnni", Isa::kAvx512Vnni},
    {"avx512", Isa::kAvx512Vnni}, {"neon", Isa::kNeon}, {"neon_i8mm", Isa::kNeonI8mm},
};

}  // namespace

const char* IsaName(Isa isa) {
  for (const Name& n : kNames) {
    if (n.isa == isa) return n.name;
  }
  return "unknown";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (const Name& n : kNames) {
    if (Supported(n.isa) && (isas.empty() || isas.back() != n.isa)) isas.push_back(n.isa);
  }
  return isas;
}

std::optional<Isa> SelectIsa(const char* forced, std::string* error) {
  const std::vector<Isa> isas = SupportedIsas();
  if (forced == nullptr || forced[0] == '\0') return isas.back();
  bool known = false;
  for (const Name& n : kNames) {
    if (std::strcmp(forced, n.name) != 0) continue;
    if (Supported(n.isa)) return n.isa;
    known = true;
  }
  std::string allowed;
  for (Isa isa : isas) {
    if (!allowed.empty()) allowed += ", ";
    allowed += IsaName(isa);
  }
  *error = std::string("DUNLIN_ISA=") + forced + (known ? " needs instructions this processor lacks" : " is unknown") +
           "; allowed here: " + allowed;
  return std::nullopt;
}

}  // namespace dunlin::kernels::cpu
