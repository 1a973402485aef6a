// dunlin-device-tests: the tests of the CUDA kernels on device 0, and with --bench their benchmarks. Where there is no
// device it says so and how many tests did not run, and ends with 0: they count as skipped, never as passed.
#include <cstdio>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime.h"
#include "tests/device/bench.h"
#include "tests/kernels/cuda/device_fixture.h"

namespace {

using dunlin::kernels::cuda::Device;

void PrintDevice(const Device& device) {
  const auto& info = device.info();
  std::printf("device: %s, sm_%d, %d SMs, %.1f GB, L2 %.1f MB%s\n", info.name.c_str(), info.compute_capability,
              info.num_sms, static_cast<double>(info.total_bytes) / 1e9, static_cast<double>(info.l2_bytes) / 1e6,
              info.unified_memory ? ", memory shared with the host" : "");
}

int RunTests(bool have_device, const std::string& why) {
  const int status = RUN_ALL_TESTS();
  if (!have_device) {
    const auto& unit = *testing::UnitTest::GetInstance();
    std::printf("no device (%s): %d tests did not run; %d that need none passed\n", why.c_str(),
                unit.skipped_test_count(), unit.successful_test_count());
  }
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  bool bench = false;
  std::string filter;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--bench") == 0) {
      bench = true;
    } else if (std::strncmp(argv[i], "--bench=", 8) == 0) {
      bench = true;
      filter = argv[i] + 8;
    } else {
      std::fprintf(stderr,
                   "usage: dunlin-device-tests [--bench[=PART OF A NAME]] [GoogleTest's flags]\n"
                   "unknown argument: %s\n",
                   argv[i]);
      return 2;
    }
  }
  std::string why;
  Device* device = dunlin::kernels::cuda::testing::TheDevice(&why);
  if (device != nullptr) PrintDevice(*device);
  if (!bench) return RunTests(device != nullptr, why);
  if (device == nullptr) {
    std::printf("no device (%s): no benchmark ran\n", why.c_str());
    return 0;
  }
  return dunlin::kernels::cuda::bench::RunAll(device, filter) ? 0 : 1;
}
