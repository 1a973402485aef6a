#include "kernels/cuda/row_draws.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/tokens.h"

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
  if (count <= twin->device.size()) return true;
  Twin<T> larger = MakeTwin<T>(std::max(count, 2 * twin->device.size()));
  if (!larger.ok()) return false;
  device_->Synchronize();  // the call before may still be reading
  *twin = std::move(larger);
  return true;
}

void RowDraws::Start(const float* logits, int vocab, std::span<const SampleParams> params, int32_t* drawn) {
  CHECK_LE(params.size(), static_cast<size_t>(max_rows_));
  CHECK_LT(start_ - finish_, 2u);
  const SampleListSizes sizes = CountSampleLists(params);
  if (!Grow(sizes.counts, &counts_) || !Grow(sizes.biases, &biases_) || !Grow(sizes.ids, &ids_)) {
    device_->Fail("out of memory for the lists of sampling parameters");
    return;
  }
  const size_t side = start_ % 2;
  FlattenSampleParams(params, params_.host[side].data(), counts_.host[side].data(), biases_.host[side].data(),
                      ids_.host[side].data());
  Copy(params_, params.size());
  Copy(counts_, sizes.counts);
  Copy(biases_, sizes.biases);
  Copy(ids_, sizes.ids);
  const auto rows = static_cast<int>(params.size());
  SampleRows(device_, logits, vocab, rows, nullptr, params_.device.data(),
             {counts_.device.data(), biases_.device.data(), ids_.device.data()}, scratch_.data(),
             results_.device.data());
  KeepDrawnTokens(device_, results_.device.data(), rows, drawn);
  device_->CopyToHost(results_.host[side].data(), results_.device.data(), params.size() * sizeof(DeviceSampleResult));
  ++start_;
}

void RowDraws::Finish(std::span<SampleResult> results) {
  if (!device_->ok()) return;
  CHECK_LT(finish_, start_);
  const size_t side = finish_++ % 2;
  for (size_t i = 0; i < results.size(); ++i) {
    ToSampleResult(results_.host[side].data()[i], params_.host[side].data()[i].num_top, &results[i]);
  }
}

}  // namespace dunlin::kernels::cuda
