// The kernels of products.h, for one kind of matrix each; products_*.cu instantiate them.
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

DUNLIN_DEV TokenTile TokensFrom(const PreparedRows& in, int first, int count) {
  const int64_t stride = in.stride;
  if (in.codes != nullptr) {
    const int64_t scale_pitch = stride / kBlockColumns * static_cast<int64_t>(sizeof(BlockScale));
    return {reinterpret_cast<const uint8_t*>(in.codes) + first * stride,
            reinterpret_cast<const uint8_t*>(in.scales) + first * scale_pitch, stride, scale_pitch, count};
  }
  return {reinterpret_cast<const uint8_t*>(in.halves) + first * stride * 2, nullptr, stride * 2, 0, count};
}

template <bool kCodes>
DUNLIN_DEV TokenTile AtUnit(TokenTile tile, int unit) {
  tile.values += unit * (kCodes ? kUnitColumns : 2 * kUnitColumns);
  if (kCodes) tile.scales += unit * (kUnitColumns / kBlockColumns * static_cast<int>(sizeof(BlockScale)));
  return tile;
}

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

template <CudaKind kKind, int kHalves, int kN>
DUNLIN_DEV void SumSplit(const CudaMatrix& m, const uint8_t* tile, int first, int last, const TokenTile& in,
                         float (&y)[kN][4]) {
  constexpr int kAhead = kKind == CudaKind::kW2 ? 4 : kKind == CudaKind::kW4 ? 2 : 1;  // units: at least four loads
  UnitLoads<kKind> ring[kAhead];
  DUNLIN_UNROLL
  for (int i = 0; i < kAhead; ++i) {
    if (first + i < last) LoadUnit<kKind>(m, tile, first + i, &ring[i]);
  }
  DUNLIN_ROLL
  for (int u = first; u < last; ++u) {
    const UnitLoads<kKind> loads = ring[0];
    DUNLIN_UNROLL
    for (int i = 0; i + 1 < kAhead; ++i) ring[i] = ring[i + 1];
    if (u + kAhead < last) LoadUnit<kKind>(m, tile, u + kAhead, &ring[kAhead - 1]);
    MultiplyUnit<kKind, kHalves, kN, false>(m, loads, AtUnit<kTakesCodes<kKind>>(in, u), y);
  }
}

// The sum of `splits` partial sums, in order.
template <int kN>
DUNLIN_DEV float AddSplits(const float* partial, int first, int splits, int row, int token) {
  const int at = (token / 8 * 4 + row / 8 * 2 + token % 2) * dev::kWarp + row % 8 * 4 + token % 8 / 2;
  float sum = 0.0f;
  for (int s = first; s < first + splits; ++s) sum += partial[s * (128 * kN) + at];
  return sum;
}

template <CudaKind kKind, int kHalves, int kN>
DUNLIN_KERNEL(kWarps* dev::kWarp, kN > 1 && kHalves > 1 ? 1 : 2)
void FewRows(ProductArgs args) {
  const int first_token = dev::BlockY() * 8 * kN;
  const int count = RowCount(args) - first_token;
  if (count <= 0) return;
  const int part = PartOfBlock(args);
  const int tile = dev::BlockX() - args.first_block[part];
  const int split = dev::Warp() % args.splits;
  float y[kN][4] = {};
  {
    const CudaMatrix& m = args.matrices[args.gated ? dev::Warp() / args.splits : part];
    const int units = m.units();
    SumSplit<kKind, kHalves, kN>(m, m.data + tile * m.row_tile_bytes(), units * split / args.splits,
                                 units * (split + 1) / args.splits, TokensFrom(args.in, first_token, count), y);
  }
  auto* partial = reinterpret_cast<float*>(dev::Shared());
  DUNLIN_UNROLL
  for (int n = 0; n < kN; ++n) {
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) partial[((dev::Warp() * kN + n) * 4 + c) * dev::kWarp + dev::Lane()] = y[n][c];
  }
  dev::SyncThreads();
  const CudaMatrix& m = args.matrices[part];
  for (int i = dev::ThreadX(); i < kTileRows * 8 * kN; i += kWarps * dev::kWarp) {
    const int row = tile * kTileRows + i % kTileRows, token = i / kTileRows;
    if (row >= m.rows || token >= count) continue;
    float value = AddSplits<kN>(partial, 0, args.splits, i % kTileRows, token);
    value = Unscale(m, args.in, row, first_token + token, value);
    if (args.gated) {
      float up = AddSplits<kN>(partial, args.splits, args.splits, i % kTileRows, token);
      up = Unscale(args.matrices[1], args.in, row, first_token + token, up);
      value = Activate(args.activation, value) * up;
    }
    Store(args.outs[part], row, first_token + token, value);
  }
}

// ---- Many rows: every warp has a row tile of its own, all share the staged activations ----

template <bool kCodes>
inline constexpr int kPitch = kCodes ? 160 : 320;  // a quad's reads of four (two) tokens meet different banks
constexpr int kManyN = kManyTokens / 8;

// Copies a unit of 64 tokens: values, then behind each token's codes its four scales.
template <bool kCodes>
DUNLIN_DEV void Stage(const TokenTile& in, int unit, int threads, uint8_t* to) {
  constexpr int kValues = kCodes ? 8 : 16, kPieces = kCodes ? 10 : 16;
  const TokenTile from = AtUnit<kCodes>(in, unit);
  for (int i = dev::ThreadX(); i < kManyTokens * kPieces; i += threads) {
    const int token = i / kPieces, piece = i % kPieces;
    const int row = token < in.count ? token : 0;
    const uint8_t* source = piece < kValues ? from.values + row * from.pitch + piece * 16
                                            : from.scales + row * from.scale_pitch + (piece - kValues) * 16;
    dev::CopyAsync16(to + token * kPitch<kCodes> + piece * 16, source, token < in.count);
  }
}

// totals: of this lane, [kManyN * 4], kWarp apart.
template <CudaKind kKind, int kHalves>
DUNLIN_DEV void SumAll(const CudaMatrix& m, const uint8_t* tile, int splits, int threads, const TokenTile& in,
                       float* totals) {
  constexpr bool kCodes = kTakesCodes<kKind>;
  constexpr int kStageBytes = kManyTokens * kPitch<kCodes>;
  const int units = m.units();
  DUNLIN_UNROLL
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < units) Stage<kCodes>(in, s, threads, dev::Shared() + s * kStageBytes);
    dev::CopyAsyncCommit();
  }
  UnitLoads<kKind> next;
  if (tile != nullptr) LoadUnit<kKind>(m, tile, 0, &next);
  float y[kManyN][4] = {};
  int split = 1;
  DUNLIN_ROLL
  for (int u = 0; u < units; ++u) {
    const int stage = u % kStages, filled = (u + kStages - 1) % kStages;
    dev::CopyAsyncWait<kStages - 2>();
    dev::SyncThreads();  // this unit is there, and the stage that is filled now has been read
    if (u + kStages - 1 < units) Stage<kCodes>(in, u + kStages - 1, threads, dev::Shared() + filled * kStageBytes);
    dev::CopyAsyncCommit();
    if (tile == nullptr) continue;
    const UnitLoads<kKind> loads = next;
    if (u + 1 < units) LoadUnit<kKind>(m, tile, u + 1, &next);
    const uint8_t* staged = dev::Shared() + stage * kStageBytes;
    const TokenTile tokens = {staged, staged + kUnitColumns, kPitch<kCodes>, kPitch<kCodes>, kManyTokens};
    MultiplyUnit<kKind, kHalves, kManyN, true>(m, loads, tokens, y);
    while (units * split / splits <= u) ++split;
    if (u + 1 != units * split / splits) continue;
    DUNLIN_UNROLL
    for (int i = 0; i < kManyN * 4; ++i) {
      totals[i * dev::kWarp] += y[i / 4][i % 4];
      y[i / 4][i % 4] = 0.0f;
    }
  }
}

template <CudaKind kKind, int kHalves>
DUNLIN_KERNEL(kWarps* dev::kWarp, 2)
void ManyRows(ProductArgs args) {
  const int first_token = dev::BlockY() * kManyTokens;
  const int all = RowCount(args);
  if (first_token >= all) return;
  const int part = PartOfBlock(args);
  const int tiles = args.gated ? args.warps / 2 : args.warps;
  const bool is_up = args.gated && dev::Warp() >= tiles;
  const CudaMatrix& m = args.matrices[is_up ? 1 : part];
  const int tile = (dev::BlockX() - args.first_block[part]) * tiles + dev::Warp() % tiles;
  // A warp beyond the last tile only stages, and stores nothing.
  const uint8_t* data = tile < m.row_tiles() ? m.data + tile * m.row_tile_bytes() : nullptr;
  constexpr int kStagesBytes = kStages * kManyTokens * kPitch<kTakesCodes<kKind>>;
  float* totals =
      reinterpret_cast<float*>(dev::Shared() + kStagesBytes) + dev::Warp() * (kTileRows * kManyTokens) + dev::Lane();
  for (int i = 0; i < kManyN * 4; ++i) totals[i * dev::kWarp] = 0.0f;
  SumAll<kKind, kHalves>(m, data, args.splits, args.warps * dev::kWarp,
                         TokensFrom(args.in, first_token, all - first_token), totals);
  if (args.gated) dev::SyncThreads();
  if (is_up) return;
  const int row0 = tile * kTileRows + dev::Lane() / 4, token0 = first_token + dev::Lane() % 4 * 2;
  for (int i = 0; i < kManyN * 4; ++i) {
    const int row = row0 + i % 4 / 2 * 8, token = token0 + i / 4 * 8 + i % 2;
    if (row >= m.rows || token >= all) continue;
    float value = Unscale(m, args.in, row, token, totals[i * dev::kWarp]);
    if (args.gated) {
      const float up = totals[tiles * (kTileRows * kManyTokens) + i * dev::kWarp];
      value = Activate(args.activation, value) * Unscale(args.matrices[1], args.in, row, token, up);
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

template <CudaKind kKind, int kHalves>
void LaunchKind(Device* device, ProductArgs args) {
  const int rows = args.in.rows;
  LaunchConfig config = {.threads = kWarps * dev::kWarp};
  if (rows <= kFewTokens) {
    config.grid_x = PlaceBlocks(&args, 1);
    config.shared_bytes = kWarps * 128 * sizeof(float) * (rows <= 8 ? 1 : 4);
    if (rows <= 8) return DUNLIN_LAUNCH(device, config, (FewRows<kKind, kHalves, 1>), args);
    return DUNLIN_LAUNCH(device, config, (FewRows<kKind, kHalves, 4>), args);
  }
  config.grid_y = (rows + kManyTokens - 1) / kManyTokens;
  const auto place = [&](int warps) {
    args.warps = warps;
    config.threads = warps * dev::kWarp;
    config.grid_x = PlaceBlocks(&args, args.gated ? warps / 2 : warps);
  };
  place(kWarps);
  if (config.grid_x * config.grid_y < device->info().num_sms) place(kWarps / 2);  // more blocks than better shared ones
  config.shared_bytes = static_cast<size_t>(kStages * kManyTokens * kPitch<kTakesCodes<kKind>> +
                                            args.warps * kTileRows * kManyTokens * static_cast<int>(sizeof(float)));
  DUNLIN_LAUNCH(device, config, (ManyRows<kKind, kHalves>), args);
}

}  // namespace dunlin::kernels::cuda

#endif  // DUNLIN_KERNELS_CUDA_PRODUCT_KERNELS_H_
