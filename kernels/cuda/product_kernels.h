// The kernels of products.h, one of each for every form of matrix; products_*.cu instantiate them.
// Thread-safety, errors: as products.h.  Source: ours.
#ifndef DUNLIN_KERNELS_CUDA_PRODUCT_KERNELS_H_
#define DUNLIN_KERNELS_CUDA_PRODUCT_KERNELS_H_

#include <cstdint>

#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product_args.h"
#include "kernels/cuda/product_tile.h"

namespace dunlin::kernels::cuda {

inline constexpr int kWarps = 8;
inline constexpr int kFewTokens = 32;   // the most that FewRows takes
inline constexpr int kManyTokens = 64;  // of a block of ManyRows
inline constexpr int kStages = 3;       // of its activations

DUNLIN_DEV int RowCount(const ProductArgs& args) {
  if (args.num_rows == nullptr) return args.in.rows;
  const int count = *args.num_rows;
  return count < args.in.rows ? count : args.in.rows;
}

DUNLIN_DEV int PartOfBlock(const ProductArgs& args) {
  int part = 0;
  if (args.num_parts > 1 && dev::BlockX() >= args.first_block[1]) part = 1;
  if (args.num_parts > 2 && dev::BlockX() >= args.first_block[2]) part = 2;
  return part;
}

// Its warp, in a form that the compiler knows to be the same in all lanes.
DUNLIN_DEV int UniformWarp() { return dev::Shuffle(dev::Warp(), 0); }

// ---- What becomes of a sum ----

DUNLIN_DEV float Activate(FfnActivation activation, float x) {
  constexpr float kLog2E = 1.44269504f;
  // gelu's 0.5 (1 + tanh(u)) is the logistic function of 2u.
  const float u = activation == FfnActivation::kSilu ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
  return x / (1.0f + dev::Exp2(-u * kLog2E));
}

// Powers of two: exact.
DUNLIN_DEV float Unscale(const CudaMatrix& m, const PreparedRows& in, int row, int token, float sum) {
  if (m.takes_codes()) return sum;
  if (m.kind == CudaKind::kF16) sum *= reinterpret_cast<const float*>(m.data + m.row_factors_at())[row];
  return sum * in.row_scale[token];
}

DUNLIN_DEV void Store(const ProductOut& to, int row, int token, float value) {
  if (to.bias != nullptr) value += to.bias[row];
  float* out = to.out + int64_t{to.to_rows != nullptr ? to.to_rows[token] : token} * to.ld + row;
  *out = to.add ? *out + value : value;
}

// ---- Few rows: a block has one row tile (a gated pair's two), its warps split K ----

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
  // What is kept ahead: of many products fewer loads, whose time the products fill. A turn of the loop takes as many
  // loads and scales, or a multiple, so that none has to move up.
  constexpr int kUnits = kN == 1 && F::kUnitLoads < 4 ? 2 : 1;
  constexpr int kLoads = kN == 1 ? F::kUnitLoads * kUnits : F::kUnitLoads > 2 ? F::kUnitLoads / 2 : F::kUnitLoads;
  TileStream<F, kLoads, kUnits> stream(m, m.data + tile * m.row_tile_bytes(), first, last);
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

// ---- Many rows: every warp has a row tile of its own, all share the staged activations ----

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
  // One load serves several blocks of 64 tokens, or is small beside them.
  constexpr int kLoads = F::kKind == CudaKind::kF16 ? 4 : F::kKind == CudaKind::kW8 ? 2 : 1;
  TileStream<F, kLoads, 1> stream(m, tile, 0, tile != nullptr ? units : 0);
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

// ---- Host ----

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
