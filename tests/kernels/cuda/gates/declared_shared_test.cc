// declared.tsv, from which blocks per SM are computed, against the sources: a kernel's shared memory is asked for at
// its launch, so no cubin has it.
#include <fstream>
#include <regex>
#include <sstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/kernels/cuda/gates/declared_shared.h"

namespace dunlin::kernels::cuda::testing {
namespace {

// -1: no line names the kernel.
int Declared(const KernelShared& kernel) {
  std::ifstream in(DUNLIN_SOURCE_DIR "/kernels/cuda/declared.tsv");
  std::string line;
  while (std::getline(in, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream cells(line);
    std::string file, name, bytes;
    std::getline(cells, file, '\t');
    std::getline(cells, name, '\t');
    std::getline(cells, bytes, '\t');
    if (file == kernel.file && std::regex_match(kernel.kernel, std::regex(name))) return std::stoi(bytes);
  }
  return -1;
}

TEST(DeclaredShared, DecodeAttention) {
  for (const KernelShared& kernel : DecodeShared()) EXPECT_EQ(Declared(kernel), kernel.bytes) << kernel.kernel;
}

TEST(DeclaredShared, PrefillAttention) {
  for (const KernelShared& kernel : PrefillShared()) EXPECT_EQ(Declared(kernel), kernel.bytes) << kernel.kernel;
}

}  // namespace
}  // namespace dunlin::kernels::cuda::testing
