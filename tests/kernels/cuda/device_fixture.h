// What the tests of the CUDA kernels share. The same test sources are linked twice: with the emulator (a unit test in
// every preset) and with the CUDA runtime (tests/device, where a device is). So a test never dereferences device
// memory: it uploads, launches, downloads; and it uses shapes that the emulator does in a second or two. Thread-safety:
// none needed.  Source: ours.
#ifndef DUNLIN_TESTS_KERNELS_CUDA_DEVICE_FIXTURE_H_
#define DUNLIN_TESTS_KERNELS_CUDA_DEVICE_FIXTURE_H_

#include <cmath>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda::testing {

// The device of this program; nullptr where there is none (*why).
inline Device* TheDevice(std::string* why = nullptr) {
  static std::string reason;
  static const std::unique_ptr<Device> device = [] {
    return Device::Count(&reason) > 0 ? Device::Open(0, &reason) : nullptr;
  }();
  if (why != nullptr) *why = reason;
  return device.get();
}

class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    device_ = TheDevice(&why);
    if (device_ == nullptr) GTEST_SKIP() << "no device: " << why;
  }
  void TearDown() override {
    if (device_ != nullptr) {
      EXPECT_EQ(device_->error(), "");
    }
  }

  template <typename T>
  DeviceBuffer<T> Upload(const std::vector<T>& values) {
    DeviceBuffer<T> buffer(device_, values.empty() ? 1 : values.size());
    EXPECT_NE(buffer.data(), nullptr);
    device_->CopyToDevice(buffer.data(), values.data(), values.size() * sizeof(T));
    device_->Synchronize();
    return buffer;
  }
  // Not initialised: on the emulator all bytes are 0xFF.
  template <typename T>
  DeviceBuffer<T> Room(size_t count) {
    DeviceBuffer<T> buffer(device_, count);
    EXPECT_NE(buffer.data(), nullptr);
    return buffer;
  }
  template <typename T>
  std::vector<T> Download(const T* from, size_t count) {
    std::vector<T> values(count);
    device_->CopyToHost(values.data(), from, count * sizeof(T));
    device_->Synchronize();
    return values;
  }
  template <typename T>
  std::vector<T> Download(const DeviceBuffer<T>& from) {
    return Download(from.data(), from.size());
  }

  Device* device_ = nullptr;
};

// |got - want|_2 / |want|_2; NaN where any value is NaN, so compare as !(x <= tolerance).
inline double RelativeL2(const std::vector<float>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    error += d * d;
    norm += want[i] * want[i];
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

}  // namespace dunlin::kernels::cuda::testing

#endif  // DUNLIN_TESTS_KERNELS_CUDA_DEVICE_FIXTURE_H_
