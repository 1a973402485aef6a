#include "kernels/cuda/products.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product_tile.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kManyTokens = 64;  // of a block of ManyRows
constexpr int kStages = 3;       // of its activations

// One launch: up to three matrices over the same rows, or a gate and an up.
struct ProductArgs {
  ProductPart parts[3];
  CudaMatrix matrices[3];
  int first_block[3] = {0, 0, 0};  // in x, of each part
  int num_parts = 0;
  int splits = kWarps;  // of K; the two of a gated pair share the warps
  bool gated = false;
  FfnActivation activation = FfnActivation::kSilu;
  PreparedRows in;
  const int32_t* num_rows = nullptr;
};

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
  constexpr bool kCodes = kKind <= CudaKind::kW8;
  constexpr int kDepth = 4 / kUnitLoads < kKind >> 1 ? 4 / kUnitLoads<kKind> : 1;
  UnitLoads<kKind> ring[kDepth];
  DUNLIN_UNROLL
  for (int d = 0; d < kDepth; ++d) {
    if (first + d < last) LoadUnit<kKind>(m, tile, first + d, &ring[d]);
  }
  for (int u = first; u < last; u += kDepth) {
    DUNLIN_UNROLL
    for (int d = 0; d < kDepth; ++d) {
      if (u + d >= last) break;
      const UnitLoads<kKind> loads = ring[d];
      if (u + d + kDepth < last) LoadUnit<kKind>(m, tile, u + d + kDepth, &ring[d]);
      MultiplyUnit<kKind, kHalves, kN, false>(m, loads, AtUnit<kCodes>(in, u + d), y);
    }
  }
}

template <bool kCodes, int kN>
DUNLIN_DEV void SumSplitOfKind(const CudaMatrix& m, const uint8_t* tile, int first, int last, const TokenTile& in,
                               float (&y)[kN][4]) {
  if constexpr (!kCodes) {
    if (m.kind == CudaKind::kF16) return SumSplit<CudaKind::kF16, 1>(m, tile, first, last, in, y);
    return SumSplit<CudaKind::kE4M3, 1>(m, tile, first, last, in, y);
  } else if (m.factor_cols == 16) {
    if (m.kind == CudaKind::kW2) return SumSplit<CudaKind::kW2, 2>(m, tile, first, last, in, y);
    if (m.kind == CudaKind::kW4) return SumSplit<CudaKind::kW4, 2>(m, tile, first, last, in, y);
    return SumSplit<CudaKind::kW8, 2>(m, tile, first, last, in, y);
  } else {
    if (m.kind == CudaKind::kW2) return SumSplit<CudaKind::kW2, 1>(m, tile, first, last, in, y);
    if (m.kind == CudaKind::kW4) return SumSplit<CudaKind::kW4, 1>(m, tile, first, last, in, y);
    return SumSplit<CudaKind::kW8, 1>(m, tile, first, last, in, y);
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

template <bool kCodes, int kN>
DUNLIN_KERNEL(kWarps* dev::kWarp, 2)
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
    SumSplitOfKind<kCodes, kN>(m, m.data + tile * m.row_tile_bytes(), units * split / args.splits,
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
    Store(args.parts[part].out, row, first_token + token, value);
  }
}

// ---- Many rows: every warp has a row tile of its own, all share the staged activations ----

template <bool kCodes>
inline constexpr int kPitch = kCodes ? 160 : 320;  // a quad's reads of four (two) tokens meet different banks
constexpr int kManyN = kManyTokens / 8;

// Copies a unit of 64 tokens: values, then behind each token's codes its four scales.
template <bool kCodes>
DUNLIN_DEV void Stage(const TokenTile& in, int unit, uint8_t* to) {
  constexpr int kValues = kCodes ? 8 : 16, kPieces = kCodes ? 10 : 16;
  const TokenTile from = AtUnit<kCodes>(in, unit);
  for (int i = dev::ThreadX(); i < kManyTokens * kPieces; i += kWarps * dev::kWarp) {
    const int token = i / kPieces, piece = i % kPieces;
    const int row = token < in.count ? token : 0;
    const uint8_t* source = piece < kValues ? from.values + row * from.pitch + piece * 16
                                            : from.scales + row * from.scale_pitch + (piece - kValues) * 16;
    dev::CopyAsync16(to + token * kPitch<kCodes> + piece * 16, source, token < in.count);
  }
}

template <CudaKind kKind, int kHalves>
DUNLIN_DEV void SumAll(const CudaMatrix& m, const uint8_t* tile, int splits, const TokenTile& in,
                       float (&total)[kManyN][4]) {
  constexpr bool kCodes = kKind <= CudaKind::kW8;
  constexpr int kStageBytes = kManyTokens * kPitch<kCodes>;
  const int units = m.units();
  DUNLIN_UNROLL
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < units) Stage<kCodes>(in, s, dev::Shared() + s * kStageBytes);
    dev::CopyAsyncCommit();
  }
  UnitLoads<kKind> next;
  if (tile != nullptr) LoadUnit<kKind>(m, tile, 0, &next);
  float y[kManyN][4] = {};
  int split = 1;
  for (int u = 0; u < units; ++u) {
    const int stage = u % kStages;
    dev::CopyAsyncWait<kStages - 2>();
    dev::SyncThreads();  // this unit is there, and the stage that is filled now has been read
    const int filled = stage == 0 ? kStages - 1 : stage - 1;
    if (u + kStages - 1 < units) Stage<kCodes>(in, u + kStages - 1, dev::Shared() + filled * kStageBytes);
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
    for (int n = 0; n < kManyN; ++n) {
      DUNLIN_UNROLL
      for (int c = 0; c < 4; ++c) {
        total[n][c] += y[n][c];
        y[n][c] = 0.0f;
      }
    }
  }
}

template <bool kCodes>
DUNLIN_DEV void SumAllOfKind(const CudaMatrix& m, const uint8_t* tile, int splits, const TokenTile& in,
                             float (&total)[kManyN][4]) {
  if constexpr (!kCodes) {
    if (m.kind == CudaKind::kF16) return SumAll<CudaKind::kF16, 1>(m, tile, splits, in, total);
    return SumAll<CudaKind::kE4M3, 1>(m, tile, splits, in, total);
  } else if (m.factor_cols == 16) {
    if (m.kind == CudaKind::kW2) return SumAll<CudaKind::kW2, 2>(m, tile, splits, in, total);
    if (m.kind == CudaKind::kW4) return SumAll<CudaKind::kW4, 2>(m, tile, splits, in, total);
    return SumAll<CudaKind::kW8, 2>(m, tile, splits, in, total);
  } else {
    if (m.kind == CudaKind::kW2) return SumAll<CudaKind::kW2, 1>(m, tile, splits, in, total);
    if (m.kind == CudaKind::kW4) return SumAll<CudaKind::kW4, 1>(m, tile, splits, in, total);
    return SumAll<CudaKind::kW8, 1>(m, tile, splits, in, total);
  }
}

// The up warps' totals go through shared memory to the gate's.
DUNLIN_DEV void GateTotals(FfnActivation activation, bool is_up, int pair, const CudaMatrix& m, const CudaMatrix& up,
                           const PreparedRows& in, int first_row, int first_token, int count,
                           float (&total)[kManyN][4]) {
  auto* exchange = reinterpret_cast<float*>(dev::Shared()) + pair * (kTileRows * kManyTokens) + dev::Lane();
  dev::CopyAsyncWait<0>();
  dev::SyncThreads();
  DUNLIN_UNROLL
  for (int i = 0; i < kManyN * 4; ++i) {
    if (is_up) exchange[i * dev::kWarp] = total[i / 4][i % 4];
  }
  dev::SyncThreads();
  if (is_up) return;
  DUNLIN_UNROLL
  for (int i = 0; i < kManyN * 4; ++i) {
    const int row = first_row + i % 4 / 2 * 8, token = first_token + i / 4 * 8 + i % 2;
    if (row >= m.rows || token >= count) continue;
    const float gate = Unscale(m, in, row, token, total[i / 4][i % 4]);
    total[i / 4][i % 4] = Activate(activation, gate) * Unscale(up, in, row, token, exchange[i * dev::kWarp]);
  }
}

template <bool kCodes>
DUNLIN_KERNEL(kWarps* dev::kWarp, 1)
void ManyRows(ProductArgs args) {
  const int first_token = dev::BlockY() * kManyTokens;
  const int all = RowCount(args);
  if (first_token >= all) return;
  const int part = PartOfBlock(args);
  const int tiles = args.gated ? kWarps / 2 : kWarps;
  const bool is_up = args.gated && dev::Warp() >= tiles;
  const CudaMatrix& m = args.matrices[is_up ? 1 : part];
  const int tile = (dev::BlockX() - args.first_block[part]) * tiles + dev::Warp() % tiles;
  // A warp beyond the last tile only stages, and stores nothing.
  const uint8_t* data = tile < m.row_tiles() ? m.data + tile * m.row_tile_bytes() : nullptr;
  float total[kManyN][4] = {};
  SumAllOfKind<kCodes>(m, data, args.splits, TokensFrom(args.in, first_token, all - first_token), total);
  const int row0 = tile * kTileRows + dev::Lane() / 4, token0 = first_token + dev::Lane() % 4 * 2;
  if (args.gated) {
    GateTotals(args.activation, is_up, dev::Warp() % tiles, args.matrices[0], args.matrices[1], args.in, row0, token0,
               all, total);
    if (is_up) return;
  }
  DUNLIN_UNROLL
  for (int i = 0; i < kManyN * 4; ++i) {
    const int row = row0 + i % 4 / 2 * 8, token = token0 + i / 4 * 8 + i % 2;
    if (row >= m.rows || token >= all) continue;
    const float sum = total[i / 4][i % 4];
    Store(args.parts[part].out, row, token, args.gated ? sum : Unscale(m, args.in, row, token, sum));
  }
}

// ---- Host ----

template <bool kCodes>
void LaunchProducts(Device* device, ProductArgs args) {
  const int rows = args.in.rows;
  const bool many = rows > 32;
  const int tiles = !many ? 1 : args.gated ? kWarps / 2 : kWarps;  // of a block
  int blocks = 0;
  for (int i = 0; i < (args.gated ? 1 : args.num_parts); ++i) {
    args.first_block[i] = blocks;
    blocks += (args.matrices[i].row_tiles() + tiles - 1) / tiles;
  }
  if (args.gated) args.num_parts = 1;
  const int threads = kWarps * dev::kWarp;
  const auto few = [&](int n) {
    return LaunchConfig{.grid_x = blocks,
                        .grid_y = (rows + 8 * n - 1) / (8 * n),
                        .threads = threads,
                        .shared_bytes = static_cast<size_t>(kWarps * 128 * n) * sizeof(float)};
  };
  if (rows <= 8) {
    DUNLIN_LAUNCH(device, few(1), (FewRows<kCodes, 1>), args);
  } else if (rows <= 16) {
    DUNLIN_LAUNCH(device, few(2), (FewRows<kCodes, 2>), args);
  } else if (!many) {
    DUNLIN_LAUNCH(device, few(4), (FewRows<kCodes, 4>), args);
  } else {
    const LaunchConfig config = {.grid_x = blocks,
                                 .grid_y = (rows + kManyTokens - 1) / kManyTokens,
                                 .threads = threads,
                                 .shared_bytes = static_cast<size_t>(kStages * kManyTokens * kPitch<kCodes>)};
    DUNLIN_LAUNCH(device, config, (ManyRows<kCodes>), args);
  }
}

void Launch(Device* device, ProductArgs args) {
  if (args.in.rows == 0) return;
  for (int i = 0; i < args.num_parts; ++i) {
    const CudaMatrix& m = *args.parts[i].matrix;
    CHECK_EQ(m.cols, args.in.cols);
    CHECK_EQ(m.takes_codes(), args.in.codes != nullptr);
    args.matrices[i] = m;
  }
  CHECK_EQ(args.in.stride, args.matrices[0].units() * kUnitColumns);
  if (args.in.codes != nullptr) {
    LaunchProducts<true>(device, args);
  } else {
    LaunchProducts<false>(device, args);
  }
}

}  // namespace

void Multiply(Device* device, const CudaMatrix& matrix, const PreparedRows& in, const int32_t* num_rows,
              const ProductOut& out) {
  const ProductPart part = {&matrix, out};
  MultiplyParts(device, &part, 1, in, num_rows);
}

void MultiplyParts(Device* device, const ProductPart* parts, int num_parts, const PreparedRows& in,
                   const int32_t* num_rows) {
  CHECK(num_parts >= 1 && num_parts <= 3) << num_parts;
  ProductArgs args;
  std::copy(parts, parts + num_parts, args.parts);
  args.num_parts = num_parts;
  args.in = in;
  args.num_rows = num_rows;
  Launch(device, args);
}

void MultiplyGated(Device* device, const CudaMatrix& gate, const CudaMatrix& up, FfnActivation activation,
                   const PreparedRows& in, const int32_t* num_rows, float* out) {
  CHECK_EQ(gate.rows, up.rows);
  CHECK(gate.kind == up.kind && (gate.factor_cols == 16) == (up.factor_cols == 16)) << "a pair of two kinds";
  ProductArgs args;
  args.parts[0] = {&gate, {.out = out, .ld = gate.rows}};
  args.parts[1] = {&up, {}};
  args.num_parts = 2;
  args.splits = kWarps / 2;
  args.gated = true;
  args.activation = activation;
  args.in = in;
  args.num_rows = num_rows;
  Launch(device, args);
}

}  // namespace dunlin::kernels::cuda
