// `dunlin bench` on a tiny model: what it prints, and what it refuses.
#include "tools/bench/engine_bench.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/gguf_builder.h"
#include "tools/bench/bench_report.h"

namespace dunlin::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class EngineBenchTest : public ::testing::Test {
 protected:
  EngineBenchTest() : path_(::testing::TempDir() + "engine_bench_" + std::to_string(::getpid()) + ".gguf") {
    std::ofstream(path_, std::ios::binary) << testing::BuildTinyLlama({});  // context 256
    options_.model = path_;
    options_.threads = 1;
    options_.prefill = {20};
    options_.decode = 3;
    options_.batch = {1, 4};
    options_.depth = {0, 40};
    options_.repeat = 2;
    options_.large_read_bytes = uint64_t{16} << 20;
    options_.json = true;
  }
  ~EngineBenchTest() override { std::filesystem::remove(path_); }

  int Run() {
    out_.str("");
    err_.str("");
    return RunEngineBench(options_, out_, err_);
  }

  std::string path_;
  EngineBenchOptions options_;
  std::ostringstream out_, err_;
};

TEST_F(EngineBenchTest, JsonHasEveryFieldOfTheContract) {
  ASSERT_EQ(Run(), 0) << err_.str();
  EXPECT_EQ(err_.str(), "");
  const nlohmann::json j = nlohmann::json::parse(out_.str());
  EXPECT_TRUE(j.contains("machine"));
  EXPECT_EQ(j.at("threads"), 1);
  EXPECT_GT(j.at("roof").at("read_bytes_per_second").get<double>(), 0);
  EXPECT_GT(j.at("roof").at("int8_ops_per_second").get<double>(), 0);
  EXPECT_GT(j.at("roof").at("f32_ops_per_second").get<double>(), 0);
  EXPECT_TRUE(j.at("roof").contains("read_bytes_per_second_1gib"));
  EXPECT_GT(j.at("peak_rss_bytes").get<uint64_t>(), j.at("weight_bytes").get<uint64_t>());
  ASSERT_EQ(j.at("cells").size(), 5u);  // one prefill, two batches at two depths
  for (const nlohmann::json& cell : j.at("cells")) {
    const bool prefill = cell.at("test") == "prefill";
    EXPECT_EQ(cell.at("tokens"), prefill ? 20 : 3);
    EXPECT_LE(cell.at("min"), cell.at("tokens_per_second"));
    EXPECT_LE(cell.at("tokens_per_second"), cell.at("max"));
    EXPECT_GT(cell.at("min").get<double>(), 0);
    const auto read = cell.at("read_fraction").get<double>();
    const auto int8 = cell.at("int8_fraction").get<double>();
    EXPECT_GT(read, 0);
    EXPECT_GT(int8, 0);
    EXPECT_EQ(cell.at("roof_fraction"), std::max(read, int8));
  }
  EXPECT_EQ(j.at("cells")[4].at("test"), "decode");
  EXPECT_EQ(j.at("cells")[4].at("batch"), 4);
  EXPECT_EQ(j.at("cells")[4].at("depth"), 40);
}

TEST_F(EngineBenchTest, ZeroLeavesAKindOfTestOut) {
  options_.prefill = {0};
  options_.batch = {2};
  options_.depth = {0};
  options_.repeat = 1;
  ASSERT_EQ(Run(), 0) << err_.str();
  nlohmann::json j = nlohmann::json::parse(out_.str());
  ASSERT_EQ(j.at("cells").size(), 1u);
  EXPECT_EQ(j.at("cells")[0].at("test"), "decode");
  options_.prefill = {5};
  options_.decode = 0;
  ASSERT_EQ(Run(), 0) << err_.str();
  j = nlohmann::json::parse(out_.str());
  ASSERT_EQ(j.at("cells").size(), 1u);
  EXPECT_EQ(j.at("cells")[0].at("test"), "prefill");
}

TEST_F(EngineBenchTest, TheTableNamesTheRoofAndTheCells) {
  options_.json = false;
  options_.progress = true;
  ASSERT_EQ(Run(), 0) << err_.str();
  EXPECT_THAT(out_.str(), AllOf(HasSubstr("roof of this run"), HasSubstr("prefill"), HasSubstr("decode")));
  EXPECT_THAT(err_.str(), HasSubstr("repeat 2 of 2"));
}

TEST_F(EngineBenchTest, ImpossibleOptionsAreRefusedByName) {
  const auto refused = [this](EngineBenchOptions changed) {
    options_ = std::move(changed);
    EXPECT_EQ(Run(), 1);
    EXPECT_EQ(out_.str(), "");
    return err_.str();
  };
  const EngineBenchOptions good = options_;
  EngineBenchOptions o = good;
  o.prefill = {257};
  EXPECT_THAT(refused(o), HasSubstr("--prefill 257: allowed is 0 to 256"));
  o = good;
  o.depth = {254};
  EXPECT_THAT(refused(o), HasSubstr("--depth 254: allowed is 0 to 253"));
  o = good;
  o.batch = {1, 0};
  EXPECT_THAT(refused(o), HasSubstr("--batch 0"));
  o = good;
  o.batch = {};
  EXPECT_THAT(refused(o), HasSubstr("--batch: no value"));
  o = good;
  o.decode = 1 << 30;
  EXPECT_THAT(refused(o), HasSubstr("--decode"));
  o = good;
  o.prefill = {0};
  o.decode = 0;
  EXPECT_THAT(refused(o), HasSubstr("nothing to measure"));
  o = good;
  o.repeat = 0;
  EXPECT_THAT(refused(o), HasSubstr("--repeat 0"));
  o = good;
  o.kv_cache_dtype = "fp7";
  EXPECT_THAT(refused(o), HasSubstr("fp7"));
  o = good;
  o.model = "/no/such/file.gguf";
  EXPECT_THAT(refused(o), HasSubstr("/no/such/file.gguf"));
}

TEST(BenchReport, TakesMediansOfRatesAndOfTheRoof) {
  BenchReport report;
  report.read_bytes_per_second = {1e9, 3e9, 2e9, 4e9};
  report.int8_ops_per_second = {5e9};
  report.f32_ops_per_second = {6e9};
  BenchCell cell{"decode", 2, 0, 10, {}};
  for (const double seconds : {1.0, 4.0, 2.0}) cell.samples.push_back({seconds, 20, 1e9, 4e9});
  report.cells.push_back(cell);
  const nlohmann::json j = nlohmann::json::parse(report.Json());
  EXPECT_EQ(j.at("roof").at("read_bytes_per_second"), 2.5e9);
  EXPECT_EQ(j.at("roof").at("read_bytes_per_second_1gib"), 0.0);
  EXPECT_EQ(j.at("roof").at("f32_ops_per_second"), 6e9);
  EXPECT_EQ(j.at("cells")[0].at("tokens_per_second"), 10.0);
  EXPECT_EQ(j.at("cells")[0].at("min"), 5.0);
  EXPECT_EQ(j.at("cells")[0].at("max"), 20.0);
  EXPECT_EQ(j.at("cells")[0].at("read_fraction"), 0.2);  // 0.5 of 2.5 GB/s
  EXPECT_EQ(j.at("cells")[0].at("int8_fraction"), 0.4);  // 2 of 5 G/s
  EXPECT_EQ(j.at("cells")[0].at("roof_fraction"), 0.4);
  EXPECT_THAT(report.Table(), AllOf(HasSubstr("20 %"), HasSubstr("40 %"), Not(HasSubstr("1 GiB"))));
}

TEST(BenchReport, ThePeakStartsAgain) {
  constexpr size_t kBytes = size_t{64} << 20;
  // Straight from the kernel: an allocator may keep what it is given back.
  void* large = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(large, MAP_FAILED);
  const uint64_t peak = PeakRssBytes();
  EXPECT_GT(peak, kBytes);
  ASSERT_EQ(::munmap(large, kBytes), 0);
  if (::access("/proc/self/clear_refs", W_OK) != 0) GTEST_SKIP() << "this kernel has no /proc/self/clear_refs";
  ResetPeakRss();
  EXPECT_GT(PeakRssBytes(), 0u);
  EXPECT_LT(PeakRssBytes(), peak - kBytes / 2);
}

}  // namespace
}  // namespace dunlin::tools
