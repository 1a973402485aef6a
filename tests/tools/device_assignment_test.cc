// Which device each worker gets.
#include "tools/device_assignment.h"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::tools {
namespace {

using Devices = std::vector<std::string>;

TEST(VisibleCudaDevices, EntriesCountUpToTheFirstThatIsNone) {
  EXPECT_EQ(VisibleCudaDevices(""), Devices{});
  EXPECT_EQ(VisibleCudaDevices("0"), Devices{"0"});
  EXPECT_EQ(VisibleCudaDevices("2, GPU-8932f937,MIG-GPU-1/2/0"), (Devices{"2", "GPU-8932f937", "MIG-GPU-1/2/0"}));
  EXPECT_EQ(VisibleCudaDevices("1,-1,2"), Devices{"1"});
  EXPECT_EQ(VisibleCudaDevices("NoDevFiles"), Devices{});
}

TEST(VisibleCudaDevices, NotSetTheDriverListsThem) {
  const std::string root = ::testing::TempDir() + "devices_" + std::to_string(::getpid());
  EXPECT_EQ(VisibleCudaDevices(nullptr, root), Devices{}) << "no driver";
  for (const char* bus : {"0000:17:00.0", "0000:65:00.0"}) {
    std::filesystem::create_directories(root + "/proc/driver/nvidia/gpus/" + bus);
  }
  EXPECT_EQ(VisibleCudaDevices(nullptr, root), (Devices{"0", "1"}));
  std::filesystem::remove_all(root);
}

TEST(AssignDevices, OneWorkerPerDeviceUnlessAsked) {
  Assignment a = AssignDevices(0, "auto", {"0", "1", "2"});
  EXPECT_EQ(a.workers, 3u);
  EXPECT_EQ(a.devices, (Devices{"0", "1", "2"}));
  EXPECT_EQ(a.sharing(), 1u);
  a = AssignDevices(2, "cuda", {"0", "1", "2"});
  EXPECT_EQ(a.workers, 2u);
  EXPECT_EQ(a.devices, (Devices{"0", "1"}));
  a = AssignDevices(4, "cuda", {"0", "MIG-x", "2"});
  EXPECT_EQ(a.workers, 4u);
  EXPECT_EQ(a.sharing(), 2u) << "two of them are on one device";
}

TEST(AssignDevices, WithoutDevicesToDivideNobodyIsBound) {
  Assignment a = AssignDevices(0, "auto", {"0"});
  EXPECT_EQ(a.workers, 1u);
  EXPECT_TRUE(a.devices.empty());
  a = AssignDevices(3, "cpu", {"0", "1"});
  EXPECT_EQ(a.workers, 3u);
  EXPECT_TRUE(a.devices.empty());
  EXPECT_EQ(a.sharing(), 3u);
  EXPECT_EQ(AssignDevices(0, "cpu", {"0", "1"}).workers, 1u);
}

}  // namespace
}  // namespace dunlin::tools
