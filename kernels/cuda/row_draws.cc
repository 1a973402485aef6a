#include "kernels/cuda/row_draws.h"

#include <algorithm>

#include "base/check.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr size_t kFirstListEntries = 4096;

}  // namespace

uint64_t RowDraws::Bytes(int max_rows, int vocab) {
  const auto rows = static_cast<uint64_t>(max_rows);
  return rows *
             (static_cast<uint64_t>(vocab) * sizeof(float) + sizeof(DeviceSampleParams) + sizeof(DeviceSampleResult)) +
         kFirstListEntries * (sizeof(TokenCount) + sizeof(TokenBias) + sizeof(int32_t));
}

RowDraws::RowDraws(Device* device, int max_rows, int vocab) : device_(device), max_rows_(max_rows) {
  const auto rows = static_cast<size_t>(max_rows);
  params_ = MakeTwin<DeviceSampleParams>(rows);
  results_ = MakeTwin<DeviceSampleResult>(rows);
  counts_ = MakeTwin<TokenCount>(kFirstListEntries);
  biases_ = MakeTwin<TokenBias>(kFirstListEntries);
  ids_ = MakeTwin<int32_t>(kFirstListEntries);
  scratch_ = DeviceBuffer<float>(device, rows * static_cast<size_t>(vocab));
}

bool RowDraws::ok() const {
  return params_.ok() && results_.ok() && counts_.ok() && biases_.ok() && ids_.ok() && scratch_.data() != nullptr;
}

template <typename T>
bool RowDraws::Grow(size_t count, Twin<T>* twin) {
  if (count <= twin->host.size()) return true;
  Twin<T> larger = MakeTwin<T>(std::max(count, 2 * twin->host.size()));
  if (!larger.ok()) return false;
  *twin = std::move(larger);
  return true;
}

void RowDraws::Start(const float* logits, int vocab, std::span<const SampleParams> params) {
  CHECK_LE(params.size(), static_cast<size_t>(max_rows_));
  const SampleListSizes sizes = CountSampleLists(params);
  if (!Grow(sizes.counts, &counts_) || !Grow(sizes.biases, &biases_) || !Grow(sizes.ids, &ids_)) {
    device_->Fail("out of memory for the lists of sampling parameters");
    return;
  }
  FlattenSampleParams(params, params_.host.data(), counts_.host.data(), biases_.host.data(), ids_.host.data());
  Copy(params_, params.size());
  Copy(counts_, sizes.counts);
  Copy(biases_, sizes.biases);
  Copy(ids_, sizes.ids);
  SampleRows(device_, logits, vocab, static_cast<int>(params.size()), nullptr, params_.device.data(),
             {counts_.device.data(), biases_.device.data(), ids_.device.data()}, scratch_.data(),
             results_.device.data());
  device_->CopyToHost(results_.host.data(), results_.device.data(), params.size() * sizeof(DeviceSampleResult));
}

void RowDraws::Finish(std::span<const SampleParams> params, std::span<SampleResult> results) {
  CHECK_EQ(params.size(), results.size());
  if (!device_->ok()) return;
  for (size_t i = 0; i < params.size(); ++i) {
    ToSampleResult(results_.host.span()[i], params[i].num_top, &results[i]);
  }
}

}  // namespace dunlin::kernels::cuda
