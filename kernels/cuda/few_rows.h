// Products of up to 32 rows: a block has one row tile (a gated pair's two), and its warps split K.
// Thread-safety, errors: as products.h.  Cost: reads the weights once, a row's activations once per row tile, from the
// caches.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_FEW_ROWS_H_
#define DUNLIN_KERNELS_CUDA_FEW_ROWS_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/product_epilogue.h"
#include "kernels/cuda/product_tile.h"

namespace dunlin::kernels::cuda {

// The sum of `splits` partial sums, in order.
template <int kN>
DUNLIN_DEV float AddSplits(const float* partial, int first, int splits, int row, int token) {
  const int at = (token / 8 * 4 + row / 8 * 2 + token % 2) * dev::kWarp + row % 8 * 4 + token % 8 / 2;
  float sum = 0.0f;
  DUNLIN_ROLL
  for (int s = first; s < first + splits; ++s) sum += partial[s * (128 * kN) + at];
  return sum;
}

template <typename F, int kN>
DUNLIN_DEV void SumSplit(const ProductArgs& args, const CudaMatrix& m, int tile, int split, int first_token, int count,
                         float (&y)[kN][4]) {
  const int first = (m.units() * split) >> args.log_splits, last = (m.units() * (split + 1)) >> args.log_splits;
  // A turn of the loop takes as many loads and scales as are kept ahead, or a multiple, so that none has to move up.
  constexpr int kUnits = kN == 1 && F::kUnitLoads < 4 ? 2 : 1;
  constexpr int kTwo = F::kUnitLoads > 2 ? F::kUnitLoads / 2 : F::kUnitLoads;
  TileStream<F,
             kN == 1   ? F::kUnitLoads * kUnits
             : kN == 2 ? kTwo
                       : kLoadsOfMany<F>,
             kUnits>
      stream(m, m.data + tile * m.row_tile_bytes(), first, last);
  GlobalTokens<F::kCodes, kN> tokens(args.in, first_token, count, first);
  DUNLIN_ROLL
  for (int u = first; u < last; u += kUnits) {
    DUNLIN_UNROLL
    for (int i = 0; i < kUnits; ++i) {
      if (i > 0 && u + i == last) break;
      MultiplyUnit<F, kN>(&stream, tokens, y);
      tokens.NextUnit();
    }
  }
}

template <typename F, int kN>
DUNLIN_KERNEL(kWarps* dev::kWarp, F::kHalves == 2 && kN == 4 ? 1 : 2)
void FewRows(ProductArgs args) {
  const int first_token = dev::BlockY() * 8 * kN;
  const int count = RowCount(args) - first_token;
  if (count <= 0) return;
  const int part = PartOfBlock(args), warp = UniformWarp(), splits = 1 << args.log_splits;
  const int tile = dev::BlockX() - args.first_block[part];
  float y[kN][4] = {};
  SumSplit<F, kN>(args, args.matrices[args.gated ? warp >> args.log_splits : part], tile, warp & (splits - 1),
                  first_token, count, y);
  auto* partial = reinterpret_cast<float*>(dev::Shared());
  DUNLIN_UNROLL
  for (int i = 0; i < kN * 4; ++i) partial[(warp * kN * 4 + i) * dev::kWarp + dev::Lane()] = y[i / 4][i % 4];
  dev::SyncThreads();
  const CudaMatrix& m = args.matrices[part];
  DUNLIN_ROLL
  for (int i = dev::ThreadX(); i < kTileRows * 8 * kN; i += kWarps * dev::kWarp) {
    const int row = tile * kTileRows + i % kTileRows, token = i / kTileRows;
    if (row >= m.rows || token >= count) continue;
    float value = AddSplits<kN>(partial, 0, splits, i % kTileRows, token);
    value = Unscale(m, args.in, row, first_token + token, value);
    if (args.gated) {
      float up = AddSplits<kN>(partial, splits, splits, i % kTileRows, token);
      up = Unscale(args.matrices[1], args.in, row, first_token + token, up);
      value = Activate(args.activation, value) * up;
    }
    Store(args.outs[part], row, first_token + token, value);
  }
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_FEW_ROWS_H_
