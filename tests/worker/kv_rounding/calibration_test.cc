// The calibration's file: what was written is read back, and nothing else is accepted. And its tables.
#include "worker/kv_rounding/calibration.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/kv_rounding.h"
#include "tests/support/status_matchers.h"
#include "worker/kv_rounding/rounding_tables.h"

namespace dunlin::worker {
namespace {

using dunlin::testing::StatusIs;
using kernels::KvFormat;
using ::testing::HasSubstr;

constexpr KvShape kShape{2, 2, 8};
constexpr uint64_t kFingerprint = 0x1234;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Metrics of the form A A' + I, so that they are positive definite.
KvCalibration Example(unsigned seed) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  KvCalibration c;
  c.shape = kShape;
  c.num_tokens = 77;
  const auto dim = static_cast<size_t>(kShape.head_dim);
  for (size_t i = 0; i < kShape.vectors(); ++i) c.centre.push_back(uniform(rng));
  for (std::vector<float>* m : {&c.k_metric, &c.v_metric}) {
    for (size_t head = 0; head < kShape.heads(); ++head) {
      std::vector<float> a(dim * dim);
      for (float& x : a) x = uniform(rng);
      for (size_t i = 0; i < dim; ++i) {
        for (size_t j = i; j < dim; ++j) {
          float sum = i == j ? 1.0f : 0.0f;
          for (size_t k = 0; k < dim; ++k) sum += a[i * dim + k] * a[j * dim + k];
          m->push_back(sum);
        }
      }
    }
  }
  return c;
}

// Ends `bytes` with the checksum that belongs to them.
std::string Resealed(std::string bytes) {
  bytes.resize(bytes.size() - sizeof(uint64_t));
  const uint64_t sum = HashBytes(bytes);
  bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  return bytes;
}

TEST(KvCalibrationFormat, ReadsBackWhatWasWritten) {
  const KvCalibration c = Example(1);
  ASSERT_OK_AND_ASSIGN(const KvCalibration read,
                       ParseKvCalibration(SerializeKvCalibration(c, kFingerprint), kShape, kFingerprint));
  EXPECT_EQ(read.shape, c.shape);
  EXPECT_EQ(read.num_tokens, 77u);
  EXPECT_EQ(read.centre, c.centre);
  EXPECT_EQ(read.k_metric, c.k_metric);
  EXPECT_EQ(read.v_metric, c.v_metric);
}

TEST(KvCalibrationFormat, EveryLengthAndEveryChangedByteIsRefused) {
  const std::string bytes = SerializeKvCalibration(Example(2), kFingerprint);
  for (size_t n = 0; n < bytes.size(); ++n) {
    ASSERT_FALSE(ParseKvCalibration(absl::string_view(bytes).substr(0, n), kShape, kFingerprint).ok()) << n;
  }
  EXPECT_FALSE(ParseKvCalibration(bytes + 'x', kShape, kFingerprint).ok());
  std::mt19937 rng(3);
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ static_cast<char>(1 + rng() % 255));
    ASSERT_FALSE(ParseKvCalibration(changed, kShape, kFingerprint).ok()) << at;
  }
}

TEST(KvCalibrationFormat, RefusalsSayWhatDiffers) {
  const std::string bytes = SerializeKvCalibration(Example(2), kFingerprint);
  EXPECT_THAT(ParseKvCalibration("GGUF and more, but no calibration at all", kShape, kFingerprint),
              StatusIs(kInvalid, HasSubstr("not a KV calibration")));
  EXPECT_THAT(ParseKvCalibration(bytes, kShape, 0x99), StatusIs(kInvalid, HasSubstr("0000000000001234, not")));
  EXPECT_THAT(ParseKvCalibration(bytes, {2, 2, 16}, kFingerprint), StatusIs(kInvalid, HasSubstr("2 KV heads of 8")));
  EXPECT_THAT(ParseKvCalibration(bytes.substr(0, 100), kShape, kFingerprint),
              StatusIs(kInvalid, HasSubstr("100 bytes")));
  std::string changed = bytes;
  changed[200] ^= 1;
  EXPECT_THAT(ParseKvCalibration(changed, kShape, kFingerprint), StatusIs(kInvalid, HasSubstr("checksum")));
  KvCalibration nan = Example(2);
  nan.v_metric.back() = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(ParseKvCalibration(SerializeKvCalibration(nan, kFingerprint), kShape, kFingerprint),
              StatusIs(kInvalid, HasSubstr("not finite")));
}

// Whatever a file with a good checksum says is refused or makes tables whose numbers are finite.
TEST(KvRoundingTables, AnyAcceptedFileGivesFiniteTables) {
  const std::string bytes = SerializeKvCalibration(Example(4), kFingerprint);
  std::mt19937 rng(5);
  int refused = 0, unusable = 0, used = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string changed = bytes;
    for (unsigned i = 0; i <= rng() % 4; ++i) changed[rng() % changed.size()] = static_cast<char>(rng());
    const auto parsed = ParseKvCalibration(Resealed(changed), kShape, kFingerprint);
    if (!parsed.ok()) {
      ++refused;
      continue;
    }
    const auto tables =
        KvRoundingTables::Create(*parsed, KvFormat::kE4M3, KvFormat::kInt8, KvRoundingMode::kCompensated);
    if (!tables.ok()) {
      ++unusable;
      continue;
    }
    ++used;
    for (const kernels::KvRounding& layer : tables->Layers()) {
      const size_t n = 2 * kernels::KvFeedbackValues(8);
      for (size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(std::isfinite(layer.k.feedback[i]) && std::isfinite(layer.v.feedback[i])) << "round " << round;
      }
      for (size_t i = 0; i < 16; ++i) ASSERT_TRUE(layer.k.order[i] < 8 && layer.v.order[i] < 8);
    }
  }
  EXPECT_GT(refused, 0);
  EXPECT_GT(unusable, 0);
  EXPECT_GT(used, 0);
}

TEST(KvRoundingTables, EveryHeadGetsTheFeedbackOfItsOwnMetric) {
  const KvCalibration c = Example(6);
  ASSERT_OK_AND_ASSIGN(const KvRoundingTables tables,
                       KvRoundingTables::Create(c, KvFormat::kInt8, KvFormat::kE4M3, KvRoundingMode::kCompensated));
  const std::vector<kernels::KvRounding> layers = tables.Layers();
  ASSERT_EQ(layers.size(), 2u);
  for (size_t head = 0; head < 4; ++head) {
    const kernels::KvRounding& layer = layers[head / 2];
    EXPECT_EQ(std::memcmp(layer.k.centre, &c.centre[head / 2 * 16], 16 * sizeof(float)), 0);
    EXPECT_EQ(layer.v.centre, nullptr);
    for (const bool is_k : {true, false}) {
      const kernels::KvVectorRounding& rounding = is_k ? layer.k : layer.v;
      const std::span<const uint16_t> order(rounding.order + head % 2 * 8, 8);
      const float* triangle = (is_k ? c.k_metric : c.v_metric).data() + head * 36;
      std::vector<double> metric(64);
      for (size_t i = 0; i < 8; ++i) {
        for (size_t j = i; j < 8; ++j) metric[i * 8 + j] = metric[j * 8 + i] = static_cast<double>(*triangle++);
      }
      std::vector<float> want(kernels::KvFeedbackValues(8));
      ASSERT_TRUE(kernels::MakeKvFeedback(metric, 8, 0.01, order, want));
      EXPECT_EQ(std::memcmp(rounding.feedback + head % 2 * want.size(), want.data(), want.size() * sizeof(float)), 0);
    }
  }
}

TEST(KvRoundingTables, ModesAndFormatsDecideWhatThereIs) {
  const KvCalibration c = Example(7);
  ASSERT_OK_AND_ASSIGN(const KvRoundingTables centred,
                       KvRoundingTables::Create(c, KvFormat::kInt8, KvFormat::kE4M3, KvRoundingMode::kCentred));
  EXPECT_NE(centred.Layers()[1].k.centre, nullptr);
  EXPECT_EQ(centred.Layers()[1].k.feedback, nullptr);
  EXPECT_EQ(centred.Layers()[1].v.feedback, nullptr);
  ASSERT_OK_AND_ASSIGN(const KvRoundingTables half,
                       KvRoundingTables::Create(c, KvFormat::kF16, KvFormat::kE4M3, KvRoundingMode::kCompensated));
  EXPECT_EQ(half.Layers()[0].k.centre, nullptr);
  EXPECT_EQ(half.Layers()[0].k.feedback, nullptr);
  EXPECT_NE(half.Layers()[0].v.feedback, nullptr);
  EXPECT_NE(centred.id(), half.id());
  EXPECT_NE(centred.id(), 0u);
  EXPECT_TRUE(KvRoundingTables().Layers().empty());
  EXPECT_EQ(KvRoundingTables().id(), 0u);
}

}  // namespace
}  // namespace dunlin::worker
