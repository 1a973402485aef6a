// The emulated device keeps runtime.h's promises: graphs, sticky errors, memory that runs out.
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda {
namespace {

DUNLIN_KERNEL(32, 1) void AddTo(const int32_t* x, int32_t factor, int32_t* sum) {
  const int i = dev::BlockX() * 32 + dev::ThreadX();
  sum[i] += factor * x[i];
}
DUNLIN_KERNEL(32, 1) void Diverge(int32_t* p) {
  if (dev::ThreadX() == 0) dev::SyncThreads();
  p[dev::ThreadX()] = -1;
}

class EmulatedDevice : public ::testing::Test {
 protected:
  EmulatedDevice() {
    std::string why;
    device_ = Device::Open(0, &why);
    x_ = DeviceBuffer<int32_t>(device_.get(), kCount);
    sum_ = DeviceBuffer<int32_t>(device_.get(), kCount);
  }
  void Set(const DeviceBuffer<int32_t>& buffer, int32_t value) {
    const std::vector<int32_t> values(kCount, value);
    device_->CopyToDevice(buffer.data(), values.data(), buffer.bytes());
  }
  void Add(int32_t factor) {
    DUNLIN_LAUNCH(device_.get(), (LaunchConfig{.grid_x = 2, .threads = 32}), AddTo, x_.data(), factor, sum_.data());
  }
  void Break() { DUNLIN_LAUNCH(device_.get(), (LaunchConfig{.threads = 32}), Diverge, x_.data()); }
  void ExpectSum(int32_t value) {
    std::vector<int32_t> got(kCount);
    device_->CopyToHost(got.data(), sum_.data(), sum_.bytes());
    device_->Synchronize();
    EXPECT_EQ(got, std::vector<int32_t>(kCount, value));
  }

  static constexpr size_t kCount = 64;
  std::unique_ptr<Device> device_;
  DeviceBuffer<int32_t> x_, sum_;
};

TEST_F(EmulatedDevice, AGraphRunsOnWhatTheBuffersHoldWhenItIsLaunched) {
  Set(x_, 1);
  Set(sum_, 0);
  device_->BeginCapture();
  int32_t factor = 3;
  Add(factor);
  factor = 100;  // arguments were taken when it was recorded
  Add(2);
  device_->CopyOnDevice(x_.data(), sum_.data(), x_.bytes());
  const int graph = device_->EndCapture();
  ASSERT_GE(graph, 0);
  ExpectSum(0);  // recorded, not run
  device_->LaunchGraph(graph);
  ExpectSum(5);
  device_->LaunchGraph(graph);  // x is 5 by now
  ExpectSum(5 + 5 * 5);
  Set(x_, 10);
  Set(sum_, 1);
  device_->LaunchGraph(graph);
  ExpectSum(51);

  device_->BeginCapture();
  device_->Fill(sum_.data(), 0, sum_.bytes());
  const int other = device_->EndCapture();
  EXPECT_NE(other, graph);
  device_->DropGraph(graph);
  device_->LaunchGraph(other);
  ExpectSum(0);
  device_->DropGraph(other);
  EXPECT_TRUE(device_->ok()) << device_->error();
}

TEST_F(EmulatedDevice, TheFirstErrorStaysAndStopsAllThatFollows) {
  Set(x_, 1);
  Set(sum_, 7);
  device_->BeginCapture();
  Add(1);
  const int graph = device_->EndCapture();
  Break();
  const std::string error = device_->error();
  EXPECT_NE(error.find("Diverge"), std::string::npos) << error;
  Add(1);
  device_->LaunchGraph(graph);
  Set(sum_, 0);
  device_->Fill(sum_.data(), 0, sum_.bytes());
  device_->Synchronize();
  Break();
  device_->Fail("later");
  EXPECT_EQ(device_->error(), error);
  // Nothing was done: the emulator's device memory is the host's.
  for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(sum_.data()[i], 7);
  std::vector<int32_t> host(kCount, 5);
  device_->CopyToHost(host.data(), sum_.data(), sum_.bytes());
  EXPECT_EQ(host, std::vector<int32_t>(kCount, 5));
  device_->BeginCapture();
  EXPECT_EQ(device_->EndCapture(), -1);
  device_->LaunchGraph(-1);
  device_->DropGraph(-1);
  EXPECT_EQ(device_->Allocate(16), nullptr);
}

TEST_F(EmulatedDevice, ALaunchThatFailsWithinAGraphStopsIt) {
  Set(x_, 1);
  Set(sum_, 0);
  device_->BeginCapture();
  Add(1);
  Break();
  Add(1);
  const int graph = device_->EndCapture();
  EXPECT_TRUE(device_->ok());
  device_->LaunchGraph(graph);
  EXPECT_FALSE(device_->ok());
  for (size_t i = 0; i < kCount; ++i) EXPECT_EQ(sum_.data()[i], 1);
}

TEST_F(EmulatedDevice, MemoryThatRunsOutIsNoError) {
  EXPECT_EQ(device_->Allocate(std::numeric_limits<size_t>::max() / 2), nullptr);
  EXPECT_EQ(device_->Allocate(std::numeric_limits<size_t>::max()), nullptr);
  EXPECT_EQ(device_->AllocatePinned(std::numeric_limits<size_t>::max() / 4), nullptr);
  EXPECT_EQ(device_->Allocate(0), nullptr);
  const DeviceBuffer<double> none(device_.get(), size_t{1} << 56);
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(none.size(), 0u);
  EXPECT_TRUE(device_->ok()) << device_->error();
  void* some = device_->Allocate(1000);
  ASSERT_NE(some, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(some) % 256, 0u);
  for (size_t i = 0; i < 1000; ++i) ASSERT_EQ(static_cast<uint8_t*>(some)[i], 0xFF);  // poisoned
  device_->Free(some);
}

TEST_F(EmulatedDevice, AGridWithoutBlocksLaunchesNothing) {
  DUNLIN_LAUNCH(device_.get(), (LaunchConfig{.grid_x = 0, .threads = 32}), Diverge, x_.data());
  DUNLIN_LAUNCH(device_.get(), (LaunchConfig{.grid_y = 0, .threads = 32}), Diverge, x_.data());
  EXPECT_TRUE(device_->ok()) << device_->error();
}

TEST_F(EmulatedDevice, ThereIsOneDevice) {
  std::string why;
  EXPECT_EQ(Device::Count(&why), 1);
  EXPECT_EQ(Device::Open(1, &why), nullptr);
  EXPECT_NE(why, "");
}

}  // namespace
}  // namespace dunlin::kernels::cuda
