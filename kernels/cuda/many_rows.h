// Products of many rows, in tiles of 64: every warp of a block has a row tile of its own and walks all of K, split as
// in few_rows.h so that the sums are the same bits; all share the activations, staged in shared memory. Thread-safety,
// errors: as products.h.  Cost: reads the weights once per 64 rows.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_MANY_ROWS_H_
#define DUNLIN_KERNELS_CUDA_MANY_ROWS_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/product_epilogue.h"
#include "kernels/cuda/product_tile.h"

namespace dunlin::kernels::cuda {

inline constexpr int kManyTokens = 64;  // of a block
inline constexpr int kStages = 3;       // of its activations
inline constexpr int kManyN = kManyTokens / 8;
template <bool kCodes>
inline constexpr int kStageBytes = kManyTokens* StagedTokens<kCodes>::kPitch;
inline constexpr int kTotals = kTileRows * kManyTokens;  // of a warp

// tile: nullptr for a warp that only stages. totals: of this lane, [kManyN * 4], kWarp apart.
template <typename F>
DUNLIN_DEV void SumAll(const ProductArgs& args, const CudaMatrix& m, const uint8_t* tile, int first_token, int count,
                       float* totals) {
  using Tokens = StagedTokens<F::kCodes>;
  const int units = m.units();
  const auto stage = [&](int unit) {
    uint8_t* to = dev::Shared() + unit % kStages * kStageBytes<F::kCodes>;
    if (unit < units) Tokens::Stage(args.in, first_token, count, unit, kManyTokens, args.warps * dev::kWarp, to);
    dev::CopyAsyncCommit();
  };
  DUNLIN_UNROLL
  for (int u = 0; u < kStages - 1; ++u) stage(u);
  TileStream<F, kLoadsOfMany<F>, 1> stream(m, tile, 0, tile != nullptr ? units : 0);
  float y[kManyN][4] = {};
  int split = 1;
  DUNLIN_ROLL
  for (int u = 0; u < units; ++u) {
    dev::CopyAsyncWait<kStages - 2>();
    dev::SyncThreads();  // this unit is there, and the stage that is filled now has been read
    stage(u + kStages - 1);
    if (tile == nullptr) continue;
    MultiplyUnit<F, kManyN>(&stream, Tokens(dev::Shared() + u % kStages * kStageBytes<F::kCodes>), y);
    while ((units * split) >> args.log_splits <= u) ++split;
    if (u + 1 != (units * split) >> args.log_splits) continue;
    DUNLIN_UNROLL
    for (int i = 0; i < kManyN * 4; ++i) {
      totals[i * dev::kWarp] += y[i / 4][i % 4];
      y[i / 4][i % 4] = 0.0f;
    }
  }
}

template <typename F>
DUNLIN_KERNEL(kWarps* dev::kWarp, F::kHalves == 2 || F::kKind == CudaKind::kE4M3 ? 1 : 2)
void ManyRows(ProductArgs args) {
  const int first_token = dev::BlockY() * kManyTokens;
  const int all = RowCount(args);
  if (first_token >= all) return;
  const int part = PartOfBlock(args), warp = UniformWarp();
  const int tiles = args.gated ? args.warps / 2 : args.warps;
  const bool is_up = args.gated && warp >= tiles;
  const CudaMatrix& m = args.matrices[is_up ? 1 : part];
  const int tile = (dev::BlockX() - args.first_block[part]) * tiles + (is_up ? warp - tiles : warp);
  // A warp beyond the last tile only stages, and stores nothing.
  const uint8_t* data = tile < m.row_tiles() ? m.data + tile * m.row_tile_bytes() : nullptr;
  uint8_t* behind_stages = dev::Shared() + kStages * kStageBytes<F::kCodes>;
  float* totals = reinterpret_cast<float*>(behind_stages) + warp * kTotals + dev::Lane();
  DUNLIN_UNROLL
  for (int i = 0; i < kManyN * 4; ++i) totals[i * dev::kWarp] = 0.0f;
  SumAll<F>(args, m, data, first_token, all - first_token, totals);
  if (args.gated) dev::SyncThreads();
  if (is_up) return;
  const int row0 = tile * kTileRows + dev::Lane() / 4, token0 = first_token + dev::Lane() % 4 * 2;
  DUNLIN_ROLL
  for (int i = 0; i < kManyN * 4; ++i) {
    const int row = row0 + i % 4 / 2 * 8, token = token0 + i / 4 * 8 + i % 2;
    if (row >= m.rows || token >= all) continue;
    float value = Unscale(m, args.in, row, token, totals[i * dev::kWarp]);
    if (args.gated) {
      const float up = Unscale(args.matrices[1], args.in, row, token, totals[tiles * kTotals + i * dev::kWarp]);
      value = Activate(args.activation, value) * up;
    }
    Store(args.outs[part], row, token, value);
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_MANY_ROWS_H_
