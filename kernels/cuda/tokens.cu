#include "kernels/cuda/tokens.h"

#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr int kThreads = 128;

LaunchConfig OnePerThread(int count) { return {.grid_x = (count + kThreads - 1) / kThreads, .threads = kThreads}; }

DUNLIN_KERNEL(kThreads, 8)
void KeepDrawn(const DeviceSampleResult* results, int count, int32_t* drawn) {
  const int i = dev::BlockX() * kThreads + dev::ThreadX();
  if (i < count) drawn[i] = results[i].token;
}

DUNLIN_KERNEL(kThreads, 8)
void Resolve(DeviceBatch batch, const int32_t* drawn) {
  const int row = dev::BlockX() * kThreads + dev::ThreadX();
  if (row >= batch.counts->num_rows) return;
  const int32_t output = batch.from_previous[row];
  if (output >= 0) batch.token_ids[row] = drawn[output];
}

}  // namespace

void KeepDrawnTokens(Device* device, const DeviceSampleResult* results, int count, int32_t* drawn) {
  DUNLIN_LAUNCH(device, OnePerThread(count), KeepDrawn, results, count, drawn);
}

void ResolveTokens(Device* device, const DeviceBatch& batch, const int32_t* drawn) {
  DUNLIN_LAUNCH(device, OnePerThread(batch.max_rows), Resolve, batch, drawn);
}

}  // namespace dunlin::kernels::cuda
