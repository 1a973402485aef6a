#include "worker/memory_budget.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
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
  }
  ~HostMemoryTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  HostMemory Read() {
    const absl::StatusOr<HostMemory> host = ReadHostMemory(root_);
    EXPECT_OK(host);
    return *host;
  }
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

constexpr char kMachine[] = "MemTotal: 1000000 kB\nMemAvailable: 900000 kB\n";

TEST_F(HostMemoryTest, TheTightestOfTheOwnCgroupAndThoseAboveItCounts) {
  Write("/proc/meminfo", kMachine);
  Write("/proc/self/cgroup", "0::/kubepods/pod1/app\n");
  Write("/sys/fs/cgroup/kubepods/memory.max", "8000000\n");
  Write("/sys/fs/cgroup/kubepods/memory.current", "1000000\n");
  Write("/sys/fs/cgroup/kubepods/pod1/memory.max", "5000000\n");
  Write("/sys/fs/cgroup/kubepods/pod1/memory.current", "100000\n");
  Write("/sys/fs/cgroup/kubepods/pod1/app/memory.max", "max\n");
  Write("/sys/fs/cgroup/other/memory.max", "1000\n");  // somebody else's
  HostMemory host = Read();
  EXPECT_EQ(host.total_bytes, 5000000u);
  EXPECT_EQ(host.available_bytes, 4900000u);
  EXPECT_EQ(host.total_source, "/sys/fs/cgroup/kubepods/pod1/memory.max");
  EXPECT_THAT(host.available_source, HasSubstr("/sys/fs/cgroup/kubepods/pod1/memory.max"));
  // A full parent leaves less than the pod's own limit does.
  Write("/sys/fs/cgroup/kubepods/memory.current", "7999000\n");
  EXPECT_EQ(Read().available_bytes, 1000u);
  EXPECT_EQ(Read().total_bytes, 5000000u);
  Write("/sys/fs/cgroup/kubepods/pod1/app/memory.high", "4000000\n");
  EXPECT_EQ(Read().total_source, "/sys/fs/cgroup/kubepods/pod1/app/memory.high");
}

TEST_F(HostMemoryTest, FilePagesThatNobodyUsesCountAsFree) {
  Write("/proc/meminfo", kMachine);
  Write("/sys/fs/cgroup/memory.max", "5000000\n");
  Write("/sys/fs/cgroup/memory.current", "4000000\n");
  Write("/sys/fs/cgroup/memory.stat", "anon 1\ninactive_anon 7\ninactive_file 3000000\n");
  EXPECT_EQ(Read().available_bytes, 4000000u);
}

TEST_F(HostMemoryTest, VersionOneIsReadToo) {
  Write("/proc/meminfo", kMachine);
  Write("/proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(Read().total_source, "MemTotal") << "that number says: no limit";
  Write("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "3000000\n");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "2000000\n");
  Write("/sys/fs/cgroup/memory/docker/abc/memory.stat", "inactive_file 9\ntotal_inactive_file 500000\n");
  const HostMemory host = Read();
  EXPECT_EQ(host.total_bytes, 3000000u);
  EXPECT_EQ(host.available_bytes, 1500000u);
  EXPECT_EQ(host.total_source, "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes");
}

TEST_F(HostMemoryTest, AContainerThatSeesItsCgroupAsTheRootIsLimitedByIt) {
  Write("/proc/meminfo", kMachine);
  for (const char* own : {"0::/\n", "0::/not/visible/here\n", "0::/../sibling\n", "rubbish\n", ""}) {
    Write("/proc/self/cgroup", own);
    Write("/sys/fs/cgroup/memory.max", "2000000\n");
    EXPECT_EQ(Read().total_bytes, 2000000u) << own;
  }
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
  EXPECT_EQ(PlanKvPool(r, {1000 * kMiB, 1000 * kMiB})->pages, 40) << "four sequences of ten pages";
  EXPECT_THAT(PlanKvPool(r, {1000 * kMiB, 1000 * kMiB})->bound, HasSubstr("--max-num-seqs 4"));
  r.explicit_bytes = 25 * kMiB + 5;
  EXPECT_EQ(PlanKvPool(r, {})->pages, 25);
  EXPECT_EQ(PlanKvPool(r, {})->bound, "the budget");
  r.explicit_bytes = 0;
  r.utilization = 0.5;
  r.other_bytes = 20 * kMiB;
  EXPECT_EQ(PlanKvPool(r, {100 * kMiB, 100 * kMiB})->pages, 30) << "half of 100 less 20 for the weights";
  EXPECT_EQ(PlanKvPool(r, {100 * kMiB, 44 * kMiB})->pages, 22) << "never more than that share of what is free now";
}

TEST(PlanKvPool, RefusesWhenOneSequenceDoesNotFitAndSaysWhatWould) {
  KvPoolRequest r = Request();
  r.explicit_bytes = 7 * kMiB;
  EXPECT_THAT(PlanKvPool(r, {}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("--max-model-len 160"), HasSubstr("10.0 MiB"), HasSubstr("112 would fit"),
                             HasSubstr("--kv-cache-memory-bytes 10485760"))));
  r.explicit_bytes = 0;
  r.other_bytes = 500 * kMiB;
  EXPECT_THAT(PlanKvPool(r, {100 * kMiB, 100 * kMiB}),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("not even one page"), HasSubstr("500.0 MiB beside the pool"),
                             ::testing::Not(HasSubstr("--kv-cache-memory-bytes")))));
  // What it says would fit does.
  r = Request();
  r.explicit_bytes = 7 * kMiB;
  r.max_model_len = 112;
  EXPECT_OK(PlanKvPool(r, {}));
}

TEST(PlanKvPool, RefusesAnExplicitSizeThatTheHostDoesNotHave) {
  KvPoolRequest r = Request();
  r.explicit_bytes = 40 * kMiB;
  r.other_bytes = 20 * kMiB;
  EXPECT_EQ(PlanKvPool(r, {60 * kMiB, 1 * kMiB})->pages, 40);
  EXPECT_THAT(PlanKvPool(r, {59 * kMiB, 59 * kMiB}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("--kv-cache-memory-bytes")));
  r.explicit_bytes = 4000 * kMiB;
  EXPECT_EQ(PlanKvPool(r, {})->pages, 4000) << "more than the sequences need is room for cached prefixes";
  EXPECT_THAT(PlanKvPool(r, {4019 * kMiB, 4019 * kMiB}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("4000.0 MiB of pages and 20.0 MiB")));
}

}  // namespace
}  // namespace dunlin::worker
