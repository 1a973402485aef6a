// Decode attention under other orders of threads, blocks and copies than the one they happen to have.
#include "gtest/gtest.h"
#include "kernels/cuda/emulator/emulator.h"
#include "tests/kernels/cuda/attention_rig.h"

namespace dunlin::kernels::cuda {
namespace {

using AttentionOrder = testing::DecodeTest;

TEST_F(AttentionOrder, NoOrderChangesABit) {
  testing::AttentionCase byte, wide, half;
  byte.kv_heads = 2;
  byte.q_heads = 6;
  wide.dim = 256;
  wide.q_heads = 18;
  wide.kv_heads = 2;
  half.k_format = half.v_format = KvFormat::kF16;
  half.dim = 256;
  half.kv_heads = half.q_heads = 3;
  for (const testing::AttentionCase& c : {byte, wide, half}) {
    // More items than blocks, so that blocks take several.
    const testing::AttentionInputs in = testing::MakeInputs(c, {{299, 1}, {30, 7}, {128, 2}});
    emulator::SetSeed(1);
    const std::vector<float> first = Decode(c, in);
    for (uint64_t seed = 2; seed < 8; ++seed) {
      emulator::SetSeed(seed);
      ASSERT_EQ(Decode(c, in), first) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace dunlin::kernels::cuda
