#include "worker/memory_budget.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace dunlin::worker {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::StatusIs;

constexpr uint64_t kMiB = 1 << 20;

class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() : root_(::testing::TempDir() + "host_memory_" + std::to_string(::getpid())) {
    std::filesystem::create_directories(root_ + "/proc");
    std::filesystem::create_directories(root_ + "/sys/fs/cgroup");
  }
  ~HostMemoryTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) { std::ofstream(root_ + path) << text; }
  std::string root_;
};

TEST_F(HostMemoryTest, TakesTheTighterOfMachineAndCgroup) {
  Write("/proc/meminfo", "MemTotal:        8192 kB\nMemFree: 1 kB\nMemAvailable:    4096 kB\n");
  auto host = ReadHostMemory(root_);
  ASSERT_OK(host);
  EXPECT_EQ(host->total_bytes, 8192u * 1024);
  EXPECT_EQ(host->available_bytes, 4096u * 1024);
  Write("/sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(ReadHostMemory(root_)->total_bytes, 8192u * 1024);
  Write("/sys/fs/cgroup/memory.max", "2097152\n");
  Write("/sys/fs/cgroup/memory.current", "1048576\n");
  host = ReadHostMemory(root_);
  EXPECT_EQ(host->total_bytes, 2097152u);
  EXPECT_EQ(host->available_bytes, 1048576u);
  Write("/sys/fs/cgroup/memory.current", "9999999\n");
  EXPECT_EQ(ReadHostMemory(root_)->available_bytes, 0u);
}

TEST_F(HostMemoryTest, AnUnreadableMachineIsAnError) {
  EXPECT_THAT(ReadHostMemory(root_), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("MemTotal")));
}

KvPoolRequest Request() {
  KvPoolRequest r;
  r.page_bytes = kMiB;
  r.page_tokens = 16;
  r.max_model_len = 160;  // 10 pages
  r.max_num_seqs = 4;
  return r;
}

TEST(PlanKvPool, IsBoundedByBudgetAndByWhatSequencesCanUse) {
  KvPoolRequest r = Request();
  EXPECT_EQ(*PlanKvPool(r, {1000 * kMiB, 1000 * kMiB}), 40) << "four sequences of ten pages";
  r.explicit_bytes = 25 * kMiB + 5;
  EXPECT_EQ(*PlanKvPool(r, {}), 25);
  r.explicit_bytes = 0;
  r.utilization = 0.5;
  r.other_bytes = 20 * kMiB;
  EXPECT_EQ(*PlanKvPool(r, {100 * kMiB, 100 * kMiB}), 30) << "half of 100 less 20 for the weights";
  EXPECT_EQ(*PlanKvPool(r, {100 * kMiB, 44 * kMiB}), 22) << "never more than that share of what is free now";
}

TEST(PlanKvPool, RefusesWhenOneSequenceDoesNotFitAndSaysWhatWould) {
  KvPoolRequest r = Request();
  r.explicit_bytes = 7 * kMiB;
  EXPECT_THAT(PlanKvPool(r, {}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("--max-model-len 160"), HasSubstr("10.0 MiB"), HasSubstr("112 would fit"))));
  r.explicit_bytes = 0;
  r.other_bytes = 500 * kMiB;
  EXPECT_THAT(PlanKvPool(r, {100 * kMiB, 100 * kMiB}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("0 would fit")));
}

TEST(PlanKvPool, RefusesAnExplicitSizeThatTheHostDoesNotHave) {
  KvPoolRequest r = Request();
  r.explicit_bytes = 40 * kMiB;
  r.other_bytes = 20 * kMiB;
  EXPECT_EQ(*PlanKvPool(r, {60 * kMiB, 1 * kMiB}), 40);
  EXPECT_THAT(PlanKvPool(r, {59 * kMiB, 59 * kMiB}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--kv-cache-memory-bytes")));
  r.explicit_bytes = 4000 * kMiB;
  EXPECT_EQ(*PlanKvPool(r, {60 * kMiB, 60 * kMiB}), 40) << "no more than the sequences can use is taken";
}

}  // namespace
}  // namespace dunlin::worker
