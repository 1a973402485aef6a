// Every family against the scalar one in the same process, kernel by kernel, on values that random rows never hold:
// exact ties, zeros of both signs, subnormal and huge numbers, infinities and NaN, in every lane and at every length.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/isa/kernel_table.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels::cpu {
namespace {

using testing::Random;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kEdges[] = {0.0f,    -0.0f,  1.0f,     -1.0f,     88.0f, 88.1f,  -87.3f,  -87.31f, 1e-40f,
                            -1e-40f, 1e30f,  -1e30f,   3.4e38f,   kInf,  -kInf,  kNan,    0.5f,    -1.5f,
                            2.5f,    1e-30f, 9.9e-31f, 0x1p-126f, 448.f, -449.f, 0x1p-6f, 0x1p31f, -0x1p31f};

// Values, every third of them an edge; without_nan: finite edges alone.
std::vector<float> Row(int n, Random* random, bool finite = false) {
  std::vector<float> row(static_cast<size_t>(n));
  for (float& x : row) {
    x = 3.0f * random->Normal();
    if (random->Int(0, 2) != 0) continue;
    const float edge = kEdges[random->Int(0, static_cast<int>(std::size(kEdges)) - 1)];
    if (!finite || std::fabs(edge) < 1e6f) x = edge;
  }
  return row;
}

// NaN is NaN, whatever its bits; all else to the bit.
void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << " at " << i << ": " << got[i] << " vs " << expected[i];
  }
}

class FamilyBitsTest : public ::testing::TestWithParam<Isa> {
 protected:
  const KernelTable& family_ = GetKernels(GetParam());
  const KernelTable& scalar_ = GetKernels(Isa::kScalar);
  Random random_{7};
};

std::vector<ActivationBlock> Quantize(const KernelTable& kernels, const std::vector<float>& x) {
  std::vector<ActivationBlock> blocks(x.size() / kTileColumns);
  kernels.quantize(x.data(), blocks.size(), blocks.data());
  return blocks;
}

void ExpectSameBlocks(const std::vector<ActivationBlock>& got, const std::vector<ActivationBlock>& expected) {
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(std::memcmp(got[i].codes, expected[i].codes, sizeof(got[i].codes)), 0) << "block " << i;
    ExpectSameBits({got[i].scale, got[i].sum}, {expected[i].scale, expected[i].sum}, "scale and sum");
    ASSERT_EQ(got[i].code_sum, expected[i].code_sum) << "block " << i;
    ASSERT_EQ(got[i].low_code_sum, expected[i].low_code_sum) << "block " << i;
  }
}

TEST_P(FamilyBitsTest, QuantisedBlocks) {
  // 127 as the largest value makes the scale one: halves are exact ties, which go to the even code.
  std::vector<float> ties(32);
  for (size_t i = 0; i < 32; ++i) ties[i] = static_cast<float>(i) - 15.5f;
  ties[5] = 127.0f;
  const std::vector<ActivationBlock> blocks = Quantize(family_, ties);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(int{blocks[0].codes[i]}, static_cast<int>(std::nearbyint(ties[i]))) << i;
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    const std::vector<float> x = Row(96, &random_, round % 2 == 0);
    ExpectSameBlocks(Quantize(family_, x), Quantize(scalar_, x));
  }
}

TEST_P(FamilyBitsTest, RowKernelsOfEveryLength) {
  for (int n = 1; n <= 70; ++n) {
    const auto size = static_cast<size_t>(n);
    const std::vector<float> x = Row(n, &random_), y = Row(n, &random_), tame = Row(n, &random_, true);
    const auto both = [&](const std::string& what, auto run) {
      std::vector<float> got(size, -7.0f), expected(size, -7.0f);
      run(family_, got.data());
      run(scalar_, expected.data());
      ExpectSameBits(got, expected, what + " of " + std::to_string(n));
    };
    both("norm", [&](const KernelTable& k, float* out) { k.rms_norm(tame.data(), y.data(), 1e-5f, n, out); });
    both("norm with infinities",
         [&](const KernelTable& k, float* out) { k.rms_norm(x.data(), y.data(), 0.0f, n, out); });
    both("add", [&](const KernelTable& k, float* out) { k.add(x.data(), n, out); });
    both("scale", [&](const KernelTable& k, float* out) { k.scale(0.3f, n, x.data(), out); });
    for (FfnActivation activation : {FfnActivation::kSilu, FfnActivation::kGeluTanh}) {
      both("gate", [&](const KernelTable& k, float* out) { k.gate(activation, x.data(), y.data(), n, out); });
    }
    both("maximum", [&](const KernelTable& k, float* out) { k.block_max(x.data(), n, out); });
    for (float max : {0.0f, 5.5f}) {
      const double got = family_.sum_exp(x.data(), n, max, 0.7f), expected = scalar_.sum_exp(x.data(), n, max, 0.7f);
      ASSERT_EQ(std::bit_cast<uint64_t>(got), std::bit_cast<uint64_t>(expected)) << got << " vs " << expected;
    }
  }
}

TEST_P(FamilyBitsTest, Rotation) {
  for (RopePairing pairing : {RopePairing::kAdjacent, RopePairing::kHalves}) {
    for (int dims = 2; dims <= 80; dims += 2) {
      const auto rope = testing::MakeRope(5, dims, pairing);
      const std::vector<float> head = Row(dims, &random_);
      std::vector<float> got = head, expected = head;
      family_.rotate(rope.table, 3, got.data());
      scalar_.rotate(rope.table, 3, expected.data());
      ExpectSameBits(got, expected, "dims " + std::to_string(dims));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyBitsTest, ::testing::ValuesIn(SupportedIsas()),
                         [](const ::testing::TestParamInfo<Isa>& i) { return std::string(IsaName(i.param)); });

}  // namespace
}  // namespace dunlin::kernels::cpu
