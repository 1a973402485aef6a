#include "tests/device/bench.h"

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "tests/device/copy_kernel.h"

namespace dunlin::kernels::cuda::bench {
namespace {

constexpr int kReplays = 21;
constexpr size_t kCopyBytes = size_t{256}
                              << 20;  // over every L2; an eighth of the smallest board's memory with its twin

}  // namespace

int Bench::Sets(size_t bytes) const {
  const size_t wanted = 4 * device_->info().l2_bytes / std::max<size_t>(bytes, 1) + 1;
  return static_cast<int>(std::clamp<size_t>(wanted, 4, 256));
}

double Bench::Seconds(int sets, const std::function<void(int)>& body) {
  body(0);  // loads the kernels' code
  device_->Synchronize();
  device_->BeginCapture();
  for (int set = 0; set < sets; ++set) body(set);
  const int graph = device_->EndCapture();
  if (graph < 0) return 0;
  device_->LaunchGraph(graph);
  std::vector<double> seconds;
  for (int i = 0; i < kReplays && device_->ok(); ++i) {
    device_->Record(0);
    device_->LaunchGraph(graph);
    device_->Record(1);
    seconds.push_back(device_->Elapsed(0, 1));
  }
  device_->Synchronize();
  device_->DropGraph(graph);
  if (!device_->ok()) return 0;
  std::nth_element(seconds.begin(), seconds.begin() + kReplays / 2, seconds.end());
  return seconds[kReplays / 2] / sets;
}

bool Bench::MeasureCopy() {
  const DeviceBuffer<uint8_t> from(device_, kCopyBytes), to(device_, kCopyBytes);
  if (from.data() == nullptr || to.data() == nullptr) {
    std::printf("copy: there are not %zu MB left on the device\n", 2 * kCopyBytes >> 20);
    return false;
  }
  device_->Fill(from.data(), 0x5A, kCopyBytes);
  const double seconds = Seconds(4, [&](int) { CopyByKernel(device_, to.data(), from.data(), kCopyBytes); });
  if (!device_->ok() || seconds <= 0) return false;
  copy_bytes_per_second_ = 2.0 * static_cast<double>(kCopyBytes) / seconds;
  std::printf("%-58s %8.1f us %9.1f GB/s read and written: what the lines below are measured against\n",
              "copy kernel, 256 MiB", seconds * 1e6, copy_bytes_per_second_ / 1e9);
  return true;
}

void Bench::PrintBandwidth(const std::string& name, double bytes, double seconds, double target) {
  if (!device_->ok() || seconds <= 0) return;
  const double rate = bytes / seconds;
  std::printf("%-58s %8.1f us %9.1f GB/s %5.1f %% of the copy", name.c_str(), seconds * 1e6, rate / 1e9,
              100 * rate / copy_bytes_per_second_);
  if (target > 0) {
    std::printf(", target %.0f %%%s", 100 * target, rate >= target * copy_bytes_per_second_ ? "" : " MISSED");
  }
  std::printf("\n");
}

void Bench::PrintCompute(const std::string& name, double operations, double seconds) {
  if (!device_->ok() || seconds <= 0) return;
  std::printf("%-58s %8.1f us %9.2f TFLOP/s\n", name.c_str(), seconds * 1e6, operations / seconds / 1e12);
}

void Bench::PrintTime(const std::string& name, double seconds, double limit_us) {
  if (!device_->ok() || seconds <= 0) return;
  std::printf("%-58s %8.1f us", name.c_str(), seconds * 1e6);
  if (limit_us > 0) std::printf(", target %.0f us%s", limit_us, seconds * 1e6 <= limit_us ? "" : " MISSED");
  std::printf("\n");
}

void Bench::PrintSkipped(const std::string& name, const std::string& why) {
  std::printf("%-58s not run: %s\n", name.c_str(), why.c_str());
}

bool RunAll(Device* device, const std::string& filter) {
  Bench bench(device, filter);
  if (bench.MeasureCopy()) {
    BenchAttention(&bench);
    BenchProducts(&bench);
    BenchSampler(&bench);
    BenchStep(&bench);
  }
  if (!device->ok()) std::printf("the device failed: %s\n", device->error().c_str());
  return device->ok();
}

}  // namespace dunlin::kernels::cuda::bench
