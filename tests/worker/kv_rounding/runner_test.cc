// From a runner's options to its rounding: a calibration is measured once, kept, found again, and made anew when it
// does not fit; nothing about it can keep a model from being served.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/model_config.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_data.h"
#include "worker/kv_rounding/calibration.h"
#include "worker/kv_rounding/calibration_file.h"
#include "worker/runners/cpu_runner.h"

namespace dunlin::worker {
namespace {

namespace fs = std::filesystem;
using kernels::KvFormat;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class KvRoundingRunnerTest : public ::testing::Test {
 protected:
  KvRoundingRunnerTest()
      : folder_(absl::StrCat(::testing::TempDir(), "kv_rounding_runner_", ::getpid())),
        model_(absl::StrCat(folder_, "/tiny.gguf")),
        kept_(absl::StrCat(model_, ".dunlin-kv")) {
    fs::create_directories(folder_);
    setenv("XDG_CACHE_HOME", (folder_ + "/cache").c_str(), 1);
    WriteModel({});
  }
  ~KvRoundingRunnerTest() override { fs::remove_all(folder_); }

  void WriteModel(const testing::TinyLlamaOptions& options) { Write(model_, testing::BuildTinyLlama(options)); }
  static void Write(const std::string& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  }

  // The runner's rounding id; what was said is in said_.
  uint64_t Create(KvRoundingMode mode, KvFormat k = KvFormat::kE4M3, KvFormat v = KvFormat::kE4M3,
                  const char* isa = nullptr, int threads = 2) {
    said_.clear();
    const auto file = model::GgufFile::Open(model_);
    EXPECT_OK(file);
    RunnerOptions options;
    options.k_format = k;
    options.v_format = v;
    options.kv_rounding = mode;
    options.max_rows = 16;
    options.threads = threads;
    options.kv_bytes = uint64_t{16} << 20;
    options.measure_bandwidth = false;
    options.say = [this](const std::string& line) { said_.push_back(line); };
    if (isa != nullptr) setenv("DUNLIN_ISA", isa, 1);
    const auto runner = CreateCpuRunner(**file, options);
    unsetenv("DUNLIN_ISA");
    EXPECT_OK(runner);
    return runner.ok() ? (*runner)->info().kv_rounding_id : 0;
  }
  uint64_t Compensated() { return Create(KvRoundingMode::kCompensated); }

  std::string folder_, model_, kept_;
  std::vector<std::string> said_;
};

TEST_F(KvRoundingRunnerTest, ACalibrationIsMadeOnceAndFoundAgain) {
  const uint64_t id = Compensated();
  EXPECT_NE(id, 0u);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("no calibration yet"), HasSubstr("kept in " + kept_)));
  const std::string bytes = testing::ReadFile(kept_);
  EXPECT_EQ(Compensated(), id);
  EXPECT_THAT(said_, IsEmpty());
  EXPECT_EQ(testing::ReadFile(kept_), bytes);
  EXPECT_NE(Create(KvRoundingMode::kCentred), id);
  EXPECT_THAT(said_, IsEmpty());
  // Nothing else is left behind.
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator{}), 2);
}

TEST_F(KvRoundingRunnerTest, EveryMachineMeasuresTheSame) {
  const uint64_t id = Compensated();
  const std::string bytes = testing::ReadFile(kept_);
  fs::remove(kept_);
  EXPECT_EQ(Create(KvRoundingMode::kCompensated, KvFormat::kE4M3, KvFormat::kE4M3, "scalar", 3), id);
  EXPECT_EQ(testing::ReadFile(kept_), bytes);
}

TEST_F(KvRoundingRunnerTest, NearestAndWiderPagesNeedNone) {
  EXPECT_EQ(Create(KvRoundingMode::kNearest), 0u);
  EXPECT_EQ(Create(KvRoundingMode::kCompensated, KvFormat::kBF16, KvFormat::kBF16), 0u);
  EXPECT_THAT(said_, IsEmpty());
  EXPECT_FALSE(fs::exists(kept_));
}

TEST_F(KvRoundingRunnerTest, WhatDoesNotFitIsMadeAnew) {
  const uint64_t id = Compensated();
  const std::string good = testing::ReadFile(kept_);
  Write(kept_, good.substr(0, good.size() / 2));
  EXPECT_EQ(Compensated(), id);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("bytes"), HasSubstr("kept in")));
  EXPECT_EQ(testing::ReadFile(kept_), good);
  // Another model under the same name.
  WriteModel({.seed = 2});
  EXPECT_NE(Compensated(), id);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("of another model"), HasSubstr("kept in")));
  // One that parses, but whose metric is none.
  WriteModel({});
  const auto file = model::GgufFile::Open(model_);
  ASSERT_OK(file);
  ASSERT_OK_AND_ASSIGN(const model::ModelConfig config, model::ParseModelConfig((*file)->gguf()));
  const uint64_t fingerprint = ModelFingerprint(**file, config);
  ASSERT_OK_AND_ASSIGN(
      KvCalibration broken,
      ParseKvCalibration(good, {config.num_layers, config.num_kv_heads, config.head_dim}, fingerprint));
  broken.k_metric[0] = -1e9f;
  Write(kept_, SerializeKvCalibration(broken, fingerprint));
  EXPECT_EQ(Compensated(), id);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("not positive definite"), HasSubstr("kept in")));
  EXPECT_EQ(testing::ReadFile(kept_), good);
}

TEST_F(KvRoundingRunnerTest, TheCacheTakesItWhereTheModelsFolderDoesNot) {
  fs::create_directories(kept_);  // a folder in the file's place: even root cannot write there
  const uint64_t id = Compensated();
  EXPECT_THAT(said_, ElementsAre(HasSubstr("calibrating"), HasSubstr("kept in " + folder_ + "/cache/dunlin/kv/")));
  EXPECT_EQ(Compensated(), id);
  EXPECT_THAT(said_, IsEmpty());
  setenv("XDG_CACHE_HOME", "/dev/null/none", 1);
  EXPECT_EQ(Compensated(), id);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("calibrating"), HasSubstr("done again at the next start")));
}

TEST_F(KvRoundingRunnerTest, AModelOfNansIsServedAllTheSame) {
  testing::GgufBuilder builder = testing::TinyLlamaBuilder({});
  const std::vector<float> nans(64, std::numeric_limits<float>::quiet_NaN());
  builder.Remove("blk.1.attn_norm.weight").Tensor("blk.1.attn_norm.weight", {64}, kernels::DType::kF32, nans);
  Write(model_, builder.Build());
  EXPECT_EQ(Compensated(), 0u);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("calibrating"), HasSubstr("rounded to nearest")));
  EXPECT_FALSE(fs::exists(kept_));
}

TEST_F(KvRoundingRunnerTest, AShortContextLimitsTheMeasurement) {
  for (const int context : {2, 7, 33}) {
    SCOPED_TRACE(context);
    WriteModel({.context_tokens = context});
    EXPECT_NE(Compensated(), 0u);
  }
}

}  // namespace
}  // namespace dunlin::worker
