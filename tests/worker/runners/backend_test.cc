// The choice of a device as a build with the CUDA backend makes it; the device is the emulator.
#include "worker/runners/backend.h"

#include <utility>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/worker/runners/cuda_runner_fixture.h"

namespace dunlin::worker {
namespace {

TEST_F(CudaRunnerTest, TheWordChoosesTheDevice) {
  for (const char* const word : {"auto", "cuda"}) {
    ASSERT_OK_AND_ASSIGN(DeviceChoice choice, ChooseDevice(word));
    ASSERT_NE(choice.cuda, nullptr) << word;
    EXPECT_EQ(choice.why_cpu, "");
    ASSERT_OK_AND_ASSIGN(const RunnerPlan plan, PlanRunnerOn(choice, File(), options_));
    EXPECT_EQ(plan.device, "cuda:0 (emulator)");
    ASSERT_OK_AND_ASSIGN(const auto runner, CreateRunnerOn(std::move(choice), File(), options_));
    EXPECT_EQ(runner->info().device, "cuda:0");
  }
  ASSERT_OK_AND_ASSIGN(DeviceChoice choice, ChooseDevice("cpu"));
  EXPECT_EQ(choice.cuda, nullptr);
  EXPECT_EQ(choice.why_cpu, "") << "it was asked for";
  ASSERT_OK_AND_ASSIGN(const RunnerPlan plan, PlanRunnerOn(choice, File(), options_));
  EXPECT_EQ(plan.device, "cpu");
  ASSERT_OK_AND_ASSIGN(const auto runner, CreateRunnerOn(std::move(choice), File(), options_));
  EXPECT_EQ(runner->info().device, "cpu");
}

}  // namespace
}  // namespace dunlin::worker
