#include "kernels/cpu/isa/isa.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace dunlin::kernels::cpu {
namespace {

#if defined(__x86_64__)
// Half conversions: a feature bit that clang 14's __builtin_cpu_supports does not know. (Whether the system saves the
// wide registers is part of the answer for "avx2".)
bool HasF16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 29)) != 0;
}
#endif

bool Supported(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
    case Isa::kAvx512Vnni:
      return Supported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
#else
    case Isa::kAvx2:
    case Isa::kAvx512Vnni:
      return false;
#endif
  }
  return false;
}

constexpr Isa kAll[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512Vnni};

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
  }
  return "unknown";
}

std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (Isa isa : kAll) {
    if (Supported(isa)) isas.push_back(isa);
  }
  return isas;
}

std::optional<Isa> SelectIsa(const char* forced, std::string* error) {
  const std::vector<Isa> isas = SupportedIsas();
  if (forced == nullptr || forced[0] == '\0') return isas.back();
  std::string allowed;
  for (Isa isa : isas) {
    if (std::strcmp(forced, IsaName(isa)) == 0) return isa;
    if (!allowed.empty()) allowed += ", ";
    allowed += IsaName(isa);
  }
  bool known = false;
  for (Isa isa : kAll) known = known || std::strcmp(forced, IsaName(isa)) == 0;
  *error = std::string("DUNLIN_ISA=") + forced + (known ? " needs instructions this processor lacks" : " is unknown") +
           "; allowed here: " + allowed;
  return std::nullopt;
}

}  // namespace dunlin::kernels::cpu
