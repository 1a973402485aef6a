// Which family the processor gets, and what DUNLIN_ISA may say. What the processor has is asked elsewhere than the code
// under test asks: of DUNLIN_TEST_ISAS where the machine is emulated, else of the system's /proc/cpuinfo.
#include "kernels/cpu/isa/isa.h"

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/isa/kernel_table.h"

namespace dunlin::kernels::cpu {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

std::vector<std::string> Words(std::string text) {
  std::istringstream in(std::move(text));
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

// The first processor's features, empty where the system names none.
std::set<std::string> Features() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    const std::vector<std::string> words = Words(line.substr(line.find(':') + 1));
    return {words.begin(), words.end()};
  }
  return {};
}

std::vector<std::string> ExpectedFamilies() {
  if (const char* given = std::getenv("DUNLIN_TEST_ISAS")) return Words(given);
  struct Family {
    const char* name;
    std::vector<const char*> needs;
  };
  const Family families[] = {
      {"avx2", {"avx2", "fma", "f16c"}},
      {"avxvnni", {"avx2", "fma", "f16c", "avx_vnni"}},
      {"avx512vnni", {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}},
      {"neon", {"asimddp"}},
      {"neon_i8mm", {"asimddp", "i8mm"}},
  };
  const std::set<std::string> features = Features();
  std::vector<std::string> expected = {"scalar"};
  for (const Family& f : families) {
    bool has = true;
    for (const char* need : f.needs) has = has && features.count(need) == 1;
    if (has) expected.push_back(f.name);
  }
  return expected;
}

std::vector<std::string> Names(const std::vector<Isa>& isas) {
  std::vector<std::string> names;
  for (Isa isa : isas) names.push_back(IsaName(isa));
  return names;
}

TEST(IsaTest, TheFamiliesAreThoseOfTheProcessorAndTheBestOneIsChosen) {
  const std::vector<std::string> expected = ExpectedFamilies();
  EXPECT_THAT(Names(SupportedIsas()), ElementsAreArray(expected));
  for (const char* unset : {static_cast<const char*>(nullptr), ""}) {
    std::string error;
    const std::optional<Isa> best = SelectIsa(unset, &error);
    ASSERT_TRUE(best.has_value()) << error;
    EXPECT_EQ(IsaName(*best), expected.back());
    EXPECT_EQ(error, "");
  }
}

TEST(IsaTest, TheVariableForcesAFamilyAndOneThatTheProcessorLacksIsRefused) {
  const std::vector<Isa> supported = SupportedIsas();
  const std::set<Isa> here(supported.begin(), supported.end());
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512Vnni, Isa::kNeon, Isa::kNeonI8mm}) {
    SCOPED_TRACE(IsaName(isa));
    std::string error;
    const std::optional<Isa> forced = SelectIsa(IsaName(isa), &error);
    if (here.count(isa) == 1) {
      EXPECT_EQ(forced, isa);
      EXPECT_EQ(error, "");
      EXPECT_EQ(GetKernels(isa).isa, isa);
    } else {
      EXPECT_EQ(forced, std::nullopt);
      EXPECT_THAT(error, HasSubstr("needs instructions this processor lacks; allowed here: scalar"));
    }
  }
}

TEST(IsaTest, TheShortNameOfAvx512IsTheFamily) {
  std::string error, short_error;
  EXPECT_EQ(SelectIsa("avx512", &short_error), SelectIsa("avx512vnni", &error));
  EXPECT_EQ(short_error.empty(), error.empty());
}

TEST(IsaTest, AnUnknownNameIsRefusedWithTheAllowedOnes) {
  for (const char* name : {"sse9", "AVX2", "avx", "neon_", " scalar"}) {
    std::string error;
    EXPECT_EQ(SelectIsa(name, &error), std::nullopt);
    EXPECT_THAT(error, HasSubstr(std::string("DUNLIN_ISA=") + name + " is unknown; allowed here: scalar"));
  }
}

}  // namespace
}  // namespace dunlin::kernels::cpu
