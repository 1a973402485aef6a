// Launches the kernels of products.h, one of each for every form of matrix; products_*.cu instantiate them.
// Thread-safety, errors: as products.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_KERNELS_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/few_rows.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/many_rows.h"

namespace dunlin::kernels::cuda {

inline constexpr int kFewTokens = 32;  // the most that FewRows takes

// How many blocks, when each has so many row tiles; says where each part's begin.
inline int PlaceBlocks(ProductArgs* args, int tiles) {
  int blocks = 0;
  for (int i = 0; i < args->num_parts; ++i) {
    args->first_block[i] = blocks;
    blocks += (args->matrices[i].row_tiles() + tiles - 1) / tiles;
  }
  return blocks;
}

template <typename F>
void LaunchForm(Device* device, ProductArgs args) {
  const int rows = args.in.rows;
  LaunchConfig config;
  config.threads = kWarps * dev::kWarp;
  if (rows <= kFewTokens) {
    const int n = rows <= 8 ? 1 : rows <= 16 ? 2 : 4;
    config.grid_x = PlaceBlocks(&args, 1);
    config.shared_bytes = static_cast<size_t>(kWarps * 128 * n) * sizeof(float);
    if (n == 1) return DUNLIN_LAUNCH(device, config, (FewRows<F, 1>), args);
    if (n == 2) return DUNLIN_LAUNCH(device, config, (FewRows<F, 2>), args);
    return DUNLIN_LAUNCH(device, config, (FewRows<F, 4>), args);
  }
  config.grid_y = (rows + kManyTokens - 1) / kManyTokens;
  const auto place = [&](int warps) {
    args.warps = warps;
    config.threads = warps * dev::kWarp;
    config.grid_x = PlaceBlocks(&args, args.gated ? warps / 2 : warps);
  };
  place(kWarps);
  if (config.grid_x * config.grid_y < device->info().num_sms) place(kWarps / 2);  // more blocks than better shared ones
  config.shared_bytes =
      static_cast<size_t>(kStages * kStageBytes<F::kCodes>) + static_cast<size_t>(args.warps * kTotals) * sizeof(float);
  DUNLIN_LAUNCH(device, config, (ManyRows<F>), args);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_KERNELS_H_
