// The sample op on a vocabulary of 128256 tokens.
#include <string>
#include <vector>

#include "kernels/cuda/sampler.h"
#include "tests/device/bench.h"
#include "tests/device/bench_cache.h"

namespace dunlin::kernels::cuda::bench {
namespace {

constexpr int kVocab = 128256;
constexpr double kLimitUs = 20;

struct Case {
  const char* name;
  int rows;
  float temperature;
  int top_k;
  float top_p;
};
constexpr Case kCases[] = {
    {"greedy, 1 row", 1, 0.0f, 0, 1.0f},
    {"temperature, 1 row", 1, 0.8f, 0, 1.0f},
    {"top-k 40 and top-p 0.9, 1 row", 1, 0.8f, 40, 0.9f},
    {"top-k 40 and top-p 0.9, 64 rows", 64, 0.8f, 40, 0.9f},
};

void RunCase(Bench* bench, const Case& c) {
  const std::string name = std::string("sample ") + c.name;
  if (!bench->Wants(name)) return;
  Device* device = bench->device();
  const auto rows = static_cast<size_t>(c.rows);
  const DeviceBuffer<float> logits = NormalFloats(device, rows * kVocab, 3.0f), scratch(device, rows * kVocab);
  const DeviceBuffer<DeviceSampleParams> params(device, rows);
  const DeviceBuffer<DeviceSampleResult> results(device, rows);
  if (logits.data() == nullptr || scratch.data() == nullptr || params.data() == nullptr || results.data() == nullptr) {
    return bench->PrintSkipped(name, "not enough memory on the device");
  }
  std::vector<SampleParams> asked(rows);
  for (size_t r = 0; r < rows; ++r) {
    asked[r].temperature = c.temperature;
    asked[r].top_k = c.top_k;
    asked[r].top_p = c.top_p;
    asked[r].seed = r;
  }
  std::vector<DeviceSampleParams> flat(rows);
  FlattenSampleParams(asked, flat.data(), nullptr, nullptr, nullptr);
  device->CopyToDevice(params.data(), flat.data(), flat.size() * sizeof(flat[0]));
  device->Synchronize();
  // The logits of a step are in the L2: their product has just written them. So no rotation here.
  const double seconds = bench->Seconds(8, [&](int) {
    SampleRows(device, logits.data(), kVocab, c.rows, nullptr, params.data(), {}, scratch.data(), results.data());
  });
  bench->PrintTime(name, seconds, c.rows == 1 ? kLimitUs : 0);
}

}  // namespace

void BenchSampler(Bench* bench) {
  for (const Case& c : kCases) RunCase(bench, c);
}

}  // namespace dunlin::kernels::cuda::bench
