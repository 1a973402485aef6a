// The reference ops against hand-derived values: they are the oracle of every other backend, so they get oracles of
// their own. The whole-network oracle is tests/worker/runners/golden_reference_test.cc.
#include "kernels/reference/reference_ops.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::kernels {
namespace {

ReferenceOps::Matrix F32Matrix(ReferenceOps* ops, int rows, int cols, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return ops->Pack(DType::kF32, rows, cols, bytes);
}

TEST(RmsNorm, DividesByTheRootMeanSquare) {
  const std::vector<float> x = {3.0f, 4.0f}, norm = {1.0f, 2.0f};
  std::vector<float> out(2);
  RmsNorm(x.data(), norm.data(), 2, 0.0f, out.data());
  EXPECT_NEAR(out[0], 3.0 / std::sqrt(12.5), 1e-6);
  EXPECT_NEAR(out[1], 2 * 4.0 / std::sqrt(12.5), 1e-6);
  const std::vector<float> zero = {0.0f, 0.0f};
  RmsNorm(zero.data(), norm.data(), 2, 1e-5f, out.data());
  EXPECT_EQ(out[0], 0.0f);
}

TEST(ApplyRope, TurnsTheRightPairs) {
  // Angles at position 1: a quarter turn for pair 0, half a turn for pair 1.
  const std::vector<float> cos = {1, 1, 0, -1}, sin = {0, 0, 1, 0};
  RopeTable rope{cos.data(), sin.data(), 4, RopePairing::kAdjacent};
  std::vector<float> head = {1, 2, 3, 4, 5};
  ApplyRope(rope, 1, head.data());
  EXPECT_EQ(head, (std::vector<float>{-2, 1, -3, -4, 5}));
  rope.pairing = RopePairing::kHalves;
  head = {1, 2, 3, 4, 5};
  ApplyRope(rope, 1, head.data());
  EXPECT_EQ(head, (std::vector<float>{-3, -2, 1, -4, 5}));
  head = {1, 2, 3, 4, 5};
  ApplyRope(rope, 0, head.data());
  EXPECT_EQ(head, (std::vector<float>{1, 2, 3, 4, 5}));
}

TEST(Activate, MatchesPublishedValues) {
  EXPECT_NEAR(Activate(FfnActivation::kSilu, 1.0f), 0.7310586, 1e-6);
  EXPECT_NEAR(Activate(FfnActivation::kSilu, -20.0f), -20 * 2.0611536e-9, 1e-12);
  EXPECT_NEAR(Activate(FfnActivation::kGeluTanh, 1.0f), 0.8411920, 1e-6);
  EXPECT_NEAR(Activate(FfnActivation::kGeluTanh, -1.0f), -0.1588080, 1e-6);
}

TEST(ReferenceOps, ProjectAddAddsToTheResidual) {
  ReferenceOps ops(2);
  const auto w = F32Matrix(&ops, 2, 3, {1, 2, 3, 4, 5, 6});
  const std::vector<float> in = {1, 0, -1, 2, 2, 2};
  std::vector<float> residual = {10, 20, 30, 40};
  const Traffic t = ops.ProjectAdd(w, 2, in.data(), residual.data());
  EXPECT_EQ(residual, (std::vector<float>{8, 18, 42, 70}));
  EXPECT_EQ(t.weight_bytes, 24u);
}

TEST(ReferenceOps, GatedFfnMultipliesTheActivatedGateByUp) {
  ReferenceOps ops;
  const auto gate = F32Matrix(&ops, 1, 2, {1, 0}), up = F32Matrix(&ops, 1, 2, {0, 1});
  const std::vector<float> x = {3, 4}, norm = {1, 1};
  float out = 0;
  ops.GatedFfn(gate, up, norm.data(), 0.0f, FfnActivation::kSilu, 1, x.data(), &out);
  const double a = 3 / std::sqrt(12.5), b = 4 / std::sqrt(12.5);
  EXPECT_NEAR(out, a / (1 + std::exp(-a)) * b, 1e-6);
}

class AttentionTest : public ::testing::Test {
 protected:
  static constexpr int kDim = 8, kPageTokens = 8;
  AttentionTest()
      : layout_(PageLayout::Create(kPageTokens, 1, 1, kDim, KvFormat::kF32, KvFormat::kF32)),
        memory_(3 * layout_.page_bytes, 0xFF),
        kv_{memory_.data(), layout_, 3} {}

  // Token t of the sequence: key = one-hot(t % dim) * t, value = t in every dim.
  void Fill(int tokens, const std::vector<int32_t>& pages) {
    for (int t = 0; t < tokens; ++t) {
      std::vector<float> k(kDim, 0.0f), v(kDim, static_cast<float>(t));
      k[static_cast<size_t>(t % kDim)] = static_cast<float>(t);
      AppendToken(layout_, kv_.page(pages[static_cast<size_t>(t / kPageTokens)]), 0, t % kPageTokens, k.data(),
                  v.data());
    }
  }

  PageLayout layout_;
  std::vector<uint8_t> memory_;
  PagedKvView kv_;
};

TEST_F(AttentionTest, IsTheSoftmaxAverageOverVisiblePositions) {
  const std::vector<int32_t> pages = {2, 0};
  Fill(12, pages);
  const SequenceSlice slice{0, 1, 11, pages.data()};
  const int32_t token = 0, position = 11;
  const BatchView batch{1, &token, &position, {&slice, 1}};
  std::vector<float> q(kDim, 0.5f), out(kDim);
  for (const int window : {0, 5}) {
    ReferenceOps ops;
    ops.PagedAttention({1, 1, kDim, 0.25f, window}, batch, kv_, 0, q.data(), out.data());
    double sum = 0, weighted = 0;
    for (int t = window == 0 ? 0 : 12 - window; t < 12; ++t) {
      const double w = std::exp(0.25 * 0.5 * t);
      sum += w;
      weighted += w * t;
    }
    for (const float o : out) EXPECT_NEAR(o, weighted / sum, 1e-5) << "window " << window;
  }
}

TEST_F(AttentionTest, ARowSeesNothingAfterItself) {
  const std::vector<int32_t> pages = {1, 2};
  Fill(10, pages);
  const std::vector<int32_t> ids(3, 0), positions = {7, 8, 9};
  const SequenceSlice slice{0, 3, 7, pages.data()};
  const BatchView batch{3, ids.data(), positions.data(), {&slice, 1}};
  std::vector<float> q(3 * kDim, 0.0f), out(3 * kDim);
  ReferenceOps ops;
  ops.PagedAttention({1, 1, kDim, 1.0f, 0}, batch, kv_, 0, q.data(), out.data());
  for (int r = 0; r < 3; ++r) {
    EXPECT_NEAR(out[static_cast<size_t>(r * kDim)], (7 + r) / 2.0, 1e-6) << "the mean of 0…" << 7 + r;
  }
}

TEST(ReferenceOps, EmbedScalesTheRow) {
  ReferenceOps ops;
  const auto table = F32Matrix(&ops, 3, 2, {1, 2, 3, 4, 5, 6});
  const std::vector<int32_t> ids = {2, 0}, positions = {0, 1};
  const SequenceSlice slice{0, 2, 0, nullptr};
  std::vector<float> x(4);
  ops.Embed(table, {2, ids.data(), positions.data(), {&slice, 1}}, 2.0f, x.data());
  EXPECT_EQ(x, (std::vector<float>{10, 12, 2, 4}));
}

}  // namespace
}  // namespace dunlin::kernels
