// The table of kv_accuracy_bench on a tiny model: every row is there, and what can be said beforehand holds.
#include "tests/bench/kv_accuracy.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_builder.h"

namespace dunlin::testing {
namespace {

using ::testing::HasSubstr;

class KvAccuracyTest : public ::testing::Test {
 protected:
  KvAccuracyTest() : folder_(absl::StrCat(::testing::TempDir(), "kv_accuracy_", ::getpid())) {
    std::filesystem::create_directories(folder_);
    options_.model = folder_ + "/tiny.gguf";
    options_.text = folder_ + "/text";
    std::ofstream(options_.model, std::ios::binary) << BuildTinyLlama({});
    std::ofstream(options_.text) << std::string(200, 'a') << "The quick brown fox jumps over the lazy dog.";
    options_.windows = 2;
    options_.window = {64, 32};
    options_.threads = 1;
    options_.batch = {1, 2};
    options_.depth = 16;
    options_.steps = 2;
  }
  ~KvAccuracyTest() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
  KvAccuracyOptions options_;
  std::ostringstream out_, err_;
};

TEST_F(KvAccuracyTest, TheTableHasARowForEveryWay) {
  for (const bool f32 : {false, true}) {
    SCOPED_TRACE(f32);
    options_.f32 = f32;
    out_.str("");
    ASSERT_EQ(RunKvAccuracy(options_, out_, err_), 0) << err_.str();
    EXPECT_THAT(out_.str(), HasSubstr(f32 ? "f32 path" : "fast path"));
    std::istringstream in(out_.str());
    std::map<std::string, double> kl;
    for (std::string line; std::getline(in, line);) {
      std::istringstream words(line);
      std::string format, rounding;
      double perplexity, ratio, kl_mean;
      if (words >> format >> rounding >> perplexity >> ratio >> kl_mean)
        kl[absl::StrCat(format, " ", rounding)] = kl_mean;
    }
    EXPECT_EQ(kl.size(), 10u) << out_.str();
    for (const auto& [name, value] : kl) EXPECT_TRUE(value >= 0.0 && value < 1.0) << name << ' ' << value;
    if (f32) {
      EXPECT_LT(kl.at("int8 nearest"), kl.at("fp8 nearest"));
    }
  }
}

TEST_F(KvAccuracyTest, WhatCannotBeScoredIsRefused) {
  const auto refused = [this](const KvAccuracyOptions& options) {
    err_.str("");
    EXPECT_EQ(RunKvAccuracy(options, out_, err_), 1);
    return err_.str();
  };
  KvAccuracyOptions o = options_;
  o.windows = 100;
  EXPECT_THAT(refused(o), HasSubstr("tokens; 6400 are wanted"));
  o = options_;
  o.windows = 0;
  EXPECT_THAT(refused(o), HasSubstr("--windows"));
  o = options_;
  o.text = "";
  EXPECT_THAT(refused(o), HasSubstr("--text"));
  o = options_;
  o.model = "/no/such/model";
  EXPECT_THAT(refused(o), HasSubstr("/no/such/model"));
}

}  // namespace
}  // namespace dunlin::testing
