// Benchmarks of the CUDA kernels on a device. Each prints what it reached beside its target; bandwidths beside that of
// a copy kernel measured in the same run, because clocks, ECC and neighbours decide what a device reaches today.
//
// How a figure is made: the work is recorded `sets` times into one graph, every time on memory of its own, together
// well over the L2; the graph is replayed and timed by CUDA events; the figure is the median replay divided by `sets`.
// So launches cost what they cost inside a graph, and no read is served by what the last one left in the L2.
// Thread-safety: one thread.  Errors: a failed device ends the run with its message.  Source: ours.
#ifndef DUNLIN_TESTS_DEVICE_BENCH_H_
#define DUNLIN_TESTS_DEVICE_BENCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "kernels/cuda/runtime.h"

namespace dunlin::kernels::cuda::bench {

class Bench {
 public:
  explicit Bench(Device* device, std::string filter) : device_(device), filter_(std::move(filter)) {}
  Device* device() const { return device_; }
  // Measures the copy and prints it. False: not enough memory, or a failed device.
  bool MeasureCopy();
  bool Wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // How many copies of `bytes` a rotation needs: four times the L2, at least 4.
  int Sets(size_t bytes) const;
  // Seconds of one body, as above. body(set): issues the work on set `set`.
  double Seconds(int sets, const std::function<void(int set)>& body);

  // One line each. target: the fraction of the copy's bandwidth that is aimed at, 0 = none.
  void PrintBandwidth(const std::string& name, double bytes, double seconds, double target);
  void PrintCompute(const std::string& name, double operations, double seconds);
  // limit: microseconds that are aimed at, 0 = none.
  void PrintTime(const std::string& name, double seconds, double limit_us);
  void PrintSkipped(const std::string& name, const std::string& why);

 private:
  Device* device_;
  std::string filter_;
  double copy_bytes_per_second_ = 0;
};

void BenchAttention(Bench* bench);
void BenchProducts(Bench* bench);
void BenchSampler(Bench* bench);
void BenchStep(Bench* bench);

// All whose name contains `filter`. False: the device failed (said).
bool RunAll(Device* device, const std::string& filter);

}  // namespace dunlin::kernels::cuda::bench

#endif  // DUNLIN_TESTS_DEVICE_BENCH_H_
