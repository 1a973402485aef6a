// Compensated rounding against oracles of its own: the feedback against solved systems, the error it leaves against
// rounding to nearest, and centring against attention on the keys as they were.
#include "kernels/kv_rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_ops.h"
#include "tests/kernels/op_cases.h"

namespace dunlin::kernels {
namespace {

using testing::Random;

size_t Index(int64_t i) { return static_cast<size_t>(i); }

// Second moment of `samples` correlated vectors: what queries look like. Columns share a few strong directions.
std::vector<double> CorrelatedMetric(int dim, int samples, Random* random) {
  constexpr int kDirections = 4;
  std::vector<std::vector<float>> directions;
  for (int d = 0; d < kDirections; ++d) directions.push_back(random->Normals(Index(dim)));
  std::vector<double> metric(Index(dim * dim));
  for (int s = 0; s < samples; ++s) {
    std::vector<float> q = random->Normals(Index(dim), 0.3f);
    for (const std::vector<float>& d : directions) {
      const float weight = random->Normal();
      for (size_t i = 0; i < q.size(); ++i) q[i] += weight * d[i];
    }
    for (size_t i = 0; i < q.size(); ++i) {
      for (size_t j = 0; j < q.size(); ++j) metric[i * q.size() + j] += double{q[i]} * double{q[j]} / samples;
    }
  }
  return metric;
}

double ErrorInMetric(const std::vector<double>& metric, const std::vector<float>& x, const std::vector<float>& y) {
  double sum = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) {
      sum += (double{x[i]} - double{y[i]}) * metric[i * x.size() + j] * (double{x[j]} - double{y[j]});
    }
  }
  return sum;
}

std::vector<float> Decode(KvFormat format, const std::vector<uint8_t>& codes, const uint8_t* scale) {
  std::vector<float> out(codes.size());
  float s = 1.0f;
  if (format == KvFormat::kInt8) {
    std::memcpy(&s, scale, sizeof s);
  } else {
    s = std::ldexp(1.0f, int{*scale} - 127);
  }
  for (size_t i = 0; i < codes.size(); ++i) {
    out[i] =
        s * (format == KvFormat::kInt8 ? static_cast<float>(static_cast<int8_t>(codes[i])) : E4M3ToFloat(codes[i]));
  }
  return out;
}

std::vector<uint16_t> RandomOrder(int dim, Random* random) {
  std::vector<uint16_t> order(Index(dim));
  std::iota(order.begin(), order.end(), uint16_t{0});
  std::shuffle(order.begin(), order.end(), random->engine());
  return order;
}

// Solves a x = b by elimination with pivots. a: [n, n], by value.
std::vector<double> Solve(std::vector<double> a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    for (size_t r = c + 1; r < n; ++r) {
      if (std::fabs(a[r * n + c]) > std::fabs(a[pivot * n + c])) pivot = r;
    }
    for (size_t j = 0; j < n; ++j) std::swap(a[c * n + j], a[pivot * n + j]);
    std::swap(b[c], b[pivot]);
    for (size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const double f = a[r * n + c] / a[c * n + c];
      for (size_t j = c; j < n; ++j) a[r * n + j] -= f * a[c * n + j];
      b[r] -= f * b[c];
    }
  }
  for (size_t c = 0; c < n; ++c) b[c] /= a[c * n + c];
  return b;
}

// Row i says how far the later values must move, per unit of error in value i, to make up for it as well as they can:
// the minimum of a quadratic form, which a linear system gives.
TEST(KvFeedback, IsTheBestContinuationOfEveryValue) {
  Random random(5);
  for (const int dim : {1, 7, 8, 20, 33}) {
    SCOPED_TRACE(dim);
    const auto n = Index(dim);
    const std::vector<double> metric = CorrelatedMetric(dim, 3 * dim, &random);
    const std::vector<uint16_t> order = RandomOrder(dim, &random);
    std::vector<float> feedback(KvFeedbackValues(dim), -1.0f);
    ASSERT_TRUE(MakeKvFeedback(metric, dim, 0.01, order, feedback));
    double mean = 0.0;
    for (size_t i = 0; i < n; ++i) mean += metric[i * n + i] / dim;
    const auto h = [&](size_t i, size_t j) { return metric[order[i] * n + order[j]] + (i == j ? 0.01 * mean : 0.0); };
    for (size_t i = 0; i < n; ++i) {
      std::vector<double> rest, column;
      for (size_t r = i + 1; r < n; ++r) {
        for (size_t c = i + 1; c < n; ++c) rest.push_back(h(r, c));
        column.push_back(h(r, i));
      }
      const std::vector<double> want = Solve(rest, column);
      for (size_t j = i + 1; j < n; ++j) {
        EXPECT_NEAR(feedback[KvFeedbackIndex(dim, static_cast<int>(i), static_cast<int>(j))], want[j - i - 1], 1e-4)
            << i << ' ' << j;
      }
      for (int j = static_cast<int>(i) / 8 * 8; j <= static_cast<int>(i); ++j) {
        EXPECT_EQ(feedback[KvFeedbackIndex(dim, static_cast<int>(i), j)], 0.0f) << i << ' ' << j;
      }
    }
  }
}

TEST(KvFeedback, AMetricThatIsNotPositiveDefiniteIsRefused) {
  const std::vector<uint16_t> order = {0, 1};
  std::vector<float> out(KvFeedbackValues(2));
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(MakeKvFeedback(std::vector<double>{1, 0.5, 0.5, 1}, 2, 0.01, order, out));
  EXPECT_TRUE(MakeKvFeedback(std::vector<double>{1, 1, 1, 1}, 2, 0.01, order, out));  // the damping helps
  EXPECT_FALSE(MakeKvFeedback(std::vector<double>{0, 0, 0, 0}, 2, 0.01, order, out));
  EXPECT_FALSE(MakeKvFeedback(std::vector<double>{1, 2, 2, 1}, 2, 0.01, order, out));
  EXPECT_FALSE(MakeKvFeedback(std::vector<double>{-1, 0, 0, -1}, 2, 0.01, order, out));
  EXPECT_FALSE(MakeKvFeedback(std::vector<double>{nan, 0, 0, 1}, 2, 0.01, order, out));
  EXPECT_FALSE(MakeKvFeedback(std::vector<double>{1, nan, nan, 1}, 2, 0.01, order, out));
  EXPECT_FALSE(MakeKvFeedback(std::vector<double>{inf, 0, 0, 1}, 2, 0.01, order, out));
}

class QuantizeHeadTest : public ::testing::TestWithParam<KvFormat> {};

TEST_P(QuantizeHeadTest, CompensationLessensTheErrorInTheMetric) {
  for (const int dim : {24, 64, 128}) {
    Random random(100 + static_cast<uint64_t>(dim));
    SCOPED_TRACE(dim);
    const std::vector<double> metric = CorrelatedMetric(dim, 4 * dim, &random);
    const std::vector<uint16_t> order = RandomOrder(dim, &random);
    std::vector<float> feedback(KvFeedbackValues(dim));
    ASSERT_TRUE(MakeKvFeedback(metric, dim, 0.01, order, feedback));
    double nearest_sum = 0.0, compensated_sum = 0.0;
    int better = 0;
    constexpr int kVectors = 200;
    for (int i = 0; i < kVectors; ++i) {
      std::vector<float> x = random.Normals(Index(dim));
      x[3] *= 8.0f;  // a large channel
      std::vector<uint8_t> codes(Index(dim));
      uint8_t scale[4], compensated_scale[4];
      QuantizeHead(GetParam(), x, {}, codes.data(), 1, scale);
      const double nearest = ErrorInMetric(metric, x, Decode(GetParam(), codes, scale));
      EXPECT_EQ(
          QuantizeHead(GetParam(), x, {nullptr, order.data(), feedback.data()}, codes.data(), 1, compensated_scale), 0);
      EXPECT_EQ(std::memcmp(scale, compensated_scale, KvScaleBytes(GetParam())), 0);
      const double compensated = ErrorInMetric(metric, x, Decode(GetParam(), codes, scale));
      nearest_sum += nearest;
      compensated_sum += compensated;
      better += compensated < nearest;
    }
    EXPECT_TRUE(compensated_sum < 0.4 * nearest_sum) << compensated_sum << " of " << nearest_sum;
    EXPECT_GE(better, kVectors * 9 / 10);
  }
}

// The feedback pushes values past the format's end: they are clipped, and no code is a NaN.
TEST_P(QuantizeHeadTest, ValuesPastTheEndAreClipped) {
  Random random(8);
  constexpr int kDim = 16;
  std::vector<float> feedback(KvFeedbackValues(kDim));
  std::vector<uint16_t> order(kDim);
  std::iota(order.begin(), order.end(), uint16_t{0});
  for (int i = 0; i < kDim; ++i) {
    for (int j = i + 1; j < kDim; ++j) feedback[KvFeedbackIndex(kDim, i, j)] = 8.0f * random.Normal();
  }
  for (int round = 0; round < 200; ++round) {
    std::vector<float> x(kDim);
    for (float& v : x) v = 447.0f * (random.Uniform() < 0.5 ? -1.0f : 1.0f) - static_cast<float>(random.Uniform());
    std::vector<uint8_t> codes(kDim);
    uint8_t scale[4];
    EXPECT_EQ(QuantizeHead(GetParam(), x, {nullptr, order.data(), feedback.data()}, codes.data(), 1, scale), 0);
    for (const uint8_t code : codes) {
      if (GetParam() == KvFormat::kE4M3) {
        EXPECT_NE(code & 0x7F, 0x7F);
      } else {
        EXPECT_NE(static_cast<int8_t>(code), -128);
      }
    }
  }
}

TEST_P(QuantizeHeadTest, BrokenValuesAreCountedAndRoundedWithoutFeedback) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {5.0f, nan, -inf, 1.0f}, centre = {1.0f, 1.0f, 1.0f, 1.0f},
                           less = {4.0f, nan, -inf, 0.0f};
  const std::vector<uint16_t> order = {3, 1, 0, 2};
  const std::vector<float> feedback(KvFeedbackValues(4), 0.5f);
  std::vector<uint8_t> codes(4), want(4);
  uint8_t scale[4], want_scale[4];
  EXPECT_EQ(QuantizeHead(GetParam(), x, {centre.data(), order.data(), feedback.data()}, codes.data(), 1, scale), 2);
  EXPECT_EQ(QuantizeHead(GetParam(), less, {}, want.data(), 1, want_scale), 2);
  EXPECT_EQ(codes, want);
  EXPECT_EQ(std::memcmp(scale, want_scale, KvScaleBytes(GetParam())), 0);
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizeHeadTest, ::testing::Values(KvFormat::kE4M3, KvFormat::kInt8),
                         [](const ::testing::TestParamInfo<KvFormat>& p) {
                           return std::string(p.param == KvFormat::kE4M3 ? "E4M3" : "Int8");
                         });

// Attention over keys with a large constant part (what a bias on K leaves), stored with and without it.
class CentringTest : public ::testing::Test {
 protected:
  static constexpr int kDim = 32, kTokens = 40;

  CentringTest() {
    centre_ = random_.Normals(kDim, 20.0f);
    for (int t = 0; t < kTokens; ++t) {
      keys_.push_back(random_.Normals(kDim));
      values_.push_back(random_.Normals(kDim));
      for (size_t d = 0; d < kDim; ++d) keys_.back()[d] += centre_[d];
    }
    q_ = random_.Normals(kDim);
  }

  std::vector<float> Attend(KvFormat format, const std::vector<std::vector<float>>& keys, const KvRounding& rounding) {
    testing::PagedBatch b =
        testing::MakeBatch(PageLayout::Create(16, 1, 1, kDim, format, KvFormat::kF32), {{kTokens - 1, 1}}, 3);
    for (int t = 0; t < kTokens; ++t) {
      AppendToken(b.layout, b.kv.page(b.tables[0][Index(t / 16)]), 0, t % 16, keys[Index(t)].data(),
                  values_[Index(t)].data(), rounding);
    }
    std::vector<float> out(kDim);
    ReferenceOps ops;
    ops.PagedAttention({1, 1, kDim, 0.2f, 0}, b.view(), b.kv, 0, q_.data(), out.data());
    return out;
  }

  static double Distance(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0.0;
    for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - double{b[i]}, 2);
    return std::sqrt(sum);
  }

  Random random_{17};
  std::vector<float> centre_, q_;
  std::vector<std::vector<float>> keys_, values_;
};

TEST_F(CentringTest, LeavesAttentionAsItIs) {
  std::vector<std::vector<float>> centred = keys_;
  for (std::vector<float>& k : centred) {
    for (size_t d = 0; d < kDim; ++d) k[d] -= centre_[d];
  }
  const std::vector<float> exact = Attend(KvFormat::kF32, keys_, {});
  // The scores' own f32 rounding: 2^-24 of a product of some 20, in 32 terms.
  EXPECT_TRUE(Distance(Attend(KvFormat::kF32, centred, {}), exact) < 1e-4);
  KvRounding rounding;
  rounding.k.centre = centre_.data();
  EXPECT_EQ(Attend(KvFormat::kF32, keys_, rounding), exact) << "f32 pages take no notice";
}

TEST_F(CentringTest, LessensTheErrorOfEightBitKeys) {
  const std::vector<float> exact = Attend(KvFormat::kF32, keys_, {});
  KvRounding rounding;
  rounding.k.centre = centre_.data();
  for (const KvFormat format : {KvFormat::kE4M3, KvFormat::kInt8}) {
    const double nearest = Distance(Attend(format, keys_, {}), exact);
    const double centred = Distance(Attend(format, keys_, rounding), exact);
    EXPECT_TRUE(centred < 0.3 * nearest) << centred << " of " << nearest;
  }
}

}  // namespace
}  // namespace dunlin::kernels
