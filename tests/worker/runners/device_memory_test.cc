// The figures of PlannableMemory and PlanDevicePages.
#include "worker/runners/device_memory.h"

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace dunlin::worker {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr uint64_t kMib = uint64_t{1} << 20;

KvPoolRequest Request() {
  KvPoolRequest r;
  r.utilization = 1.0;
  r.page_bytes = kMib;
  r.max_model_len = 16 * 10;
  r.max_num_seqs = 1000000;
  return r;
}

TEST(PlannableMemory, LeavesTheReserveAndWhatIsToCome) {
  const DeviceMemory device{"H", 1000 * kMib, 800 * kMib, false};
  const HostMemory m = PlannableMemory(device, {10, 5, "a", "b"}, 100 * kMib);
  EXPECT_EQ(m.total_bytes, 1000 * kMib) << "memory of its own: the host's figures do not matter";
  EXPECT_EQ(m.available_bytes, 700 * kMib - kDeviceReserveBytes);
  EXPECT_THAT(m.available_source, HasSubstr("192.0 MiB for graphs"));
  EXPECT_EQ(PlannableMemory({"H", 1000, 10, false}, {}, 5).available_bytes, 0u);
}

TEST(PlannableMemory, OfUnifiedMemoryTheSmallerView) {
  const DeviceMemory device{"Orin", 1000 * kMib, 800 * kMib, true};
  HostMemory m = PlannableMemory(device, {900 * kMib, 850 * kMib, "memory.max", "MemAvailable"}, 0);
  EXPECT_EQ(m.total_bytes, 900 * kMib);
  EXPECT_THAT(m.total_source, HasSubstr("memory.max"));
  EXPECT_EQ(m.available_bytes, 800 * kMib - kDeviceReserveBytes);
  m = PlannableMemory(device, {1100 * kMib, 700 * kMib, "MemTotal", "MemAvailable"}, 0);
  EXPECT_EQ(m.total_bytes, 1000 * kMib);
  EXPECT_EQ(m.available_bytes, 700 * kMib - kDeviceReserveBytes);
  EXPECT_THAT(m.available_source, HasSubstr("MemAvailable"));
  EXPECT_EQ(PlannableMemory(device, {}, 0).total_bytes, 1000 * kMib) << "a host that says nothing";
}

TEST(PlanDevicePages, AllOfTheMemoryIsNeverAllOfIt) {
  KvPoolRequest r = Request();
  r.other_bytes = 200 * kMib;  // allocated: not free any more
  const HostMemory m = PlannableMemory({"H", 1000 * kMib, 800 * kMib, false}, {}, 0);
  ASSERT_OK_AND_ASSIGN(const KvPoolPlan plan, PlanDevicePages(r, m));
  EXPECT_EQ(static_cast<uint64_t>(plan.pages), (800 * kMib - kDeviceReserveBytes) / kMib);
  r.utilization = 0.5;
  ASSERT_OK_AND_ASSIGN(const KvPoolPlan half, PlanDevicePages(r, m));
  EXPECT_EQ(static_cast<uint64_t>(half.pages), (300 * kMib - kDeviceReserveBytes) / kMib) << "of 500 in all";
}

TEST(PlanDevicePages, AnExplicitSizeMustBeFree) {
  KvPoolRequest r = Request();
  r.explicit_bytes = 600 * kMib;
  const HostMemory m = PlannableMemory({"H", 1000 * kMib, 800 * kMib, false}, {}, 0);
  ASSERT_OK_AND_ASSIGN(const KvPoolPlan plan, PlanDevicePages(r, m));
  EXPECT_EQ(plan.pages, 600);
  r.explicit_bytes = 609 * kMib;
  EXPECT_THAT(PlanDevicePages(r, m), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("608.0 MiB there are")));
}

}  // namespace
}  // namespace dunlin::worker
