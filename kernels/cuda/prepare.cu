#include "kernels/cuda/prepare.h"

#include "base/check.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/four_floats.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix_tile.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
// Fours of a row that a thread keeps between reading and rounding (rows of up to 8192 columns); the rest is read again.
constexpr int kHeld = 4;

// One row as a block sees it: thread t has the fours t, t + kThreads, ….
struct Row {
  const float* x;
  const float* norm;  // nullptr: without
  int cols;
  int stride;
  float inverse;  // of the root of the mean square
  FourFloats held[kHeld];
  FourFloats weights[kHeld];
};

DUNLIN_DEV int FirstColumn(int i) { return 4 * (dev::ThreadX() + i * kThreads); }

// 0 past the row's end, whatever the norm makes of it.
DUNLIN_DEV FourFloats Normed(const Row& row, const FourFloats& x, const FourFloats& weight, int col) {
  if (row.norm == nullptr) return x;
  FourFloats v;
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) v.at[c] = col + c < row.cols ? x.at[c] * row.inverse * weight.at[c] : 0.0f;
  return v;
}

// body(first column, four values) for all of this thread's fours up to the stride. Whole warps take part in each.
template <typename Body>
DUNLIN_DEV void ForEachFour(const Row& row, Body&& body) {
  DUNLIN_UNROLL
  for (int i = 0; i < kHeld; ++i) {
    if (FirstColumn(i) < row.stride) body(FirstColumn(i), Normed(row, row.held[i], row.weights[i], FirstColumn(i)));
  }
  for (int col = FirstColumn(kHeld); col < row.stride; col += 4 * kThreads) {
    const FourFloats weight = row.norm != nullptr ? LoadFourOf(row.norm, col, row.cols) : NoFloats();
    body(col, Normed(row, LoadFourOf(row.x, col, row.cols), weight, col));
  }
}

// One value of each warp to all threads, in the order of the warps; slots: [kWarps] of the block's, used once.
DUNLIN_DEV float SumOfWarps(float of_warp, float* slots) {
  if (dev::Lane() == 0) slots[dev::Warp()] = of_warp;
  dev::SyncThreads();
  float sum = 0.0f;
  for (int w = 0; w < kWarps; ++w) sum += slots[w];
  return sum;
}
DUNLIN_DEV float MaxOfWarps(float of_warp, float* slots) {
  if (dev::Lane() == 0) slots[dev::Warp()] = of_warp;
  dev::SyncThreads();
  float max = 0.0f;
  for (int w = 0; w < kWarps; ++w) max = slots[w] > max ? slots[w] : max;
  return max;
}

// The order of the sum of squares: of a thread its columns ascending, by fma; of a warp the butterfly of WarpSum; then
// the warps in order. It hangs on cols alone.
DUNLIN_DEV Row LoadRow(const RowsToPrepare& from, const PreparedRows& to, float* slots) {
  const int source = from.rows != nullptr ? from.rows[dev::BlockX()] : dev::BlockX();
  Row row;
  row.x = from.x + static_cast<size_t>(source) * static_cast<size_t>(to.cols);
  row.norm = from.norm;
  row.cols = to.cols;
  row.stride = to.stride;
  row.inverse = 1.0f;
  DUNLIN_UNROLL
  for (int i = 0; i < kHeld; ++i) {
    row.held[i] = LoadFourOf(row.x, FirstColumn(i), row.cols);
    row.weights[i] = row.norm != nullptr ? LoadFourOf(row.norm, FirstColumn(i), row.cols) : NoFloats();
  }
  if (row.norm == nullptr) return row;
  float sum = 0.0f;
  const auto add = [&sum](const FourFloats& x) {
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) sum = dev::Fma(x.at[c], x.at[c], sum);
  };
  DUNLIN_UNROLL
  for (int i = 0; i < kHeld; ++i) add(row.held[i]);
  for (int col = FirstColumn(kHeld); col < row.stride; col += 4 * kThreads) add(LoadFourOf(row.x, col, row.cols));
  const float all = SumOfWarps(dev::WarpSum(sum), slots);
  row.inverse = dev::Rsqrt(all / static_cast<float>(row.cols) + from.eps);
  return row;
}

DUNLIN_DEV bool IsPadding(const RowsToPrepare& from) {
  return from.num_rows != nullptr && dev::BlockX() >= *from.num_rows;
}

DUNLIN_DEV float LargestOf(const FourFloats& x) {
  float largest = 0.0f;
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) {
    const float magnitude = Magnitude(x.at[c]);
    largest = magnitude > largest ? magnitude : largest;  // a NaN counts for nothing
  }
  return largest;
}

// Eight neighbouring lanes hold a block of 32 columns; all 32 lanes call it.
DUNLIN_DEV void StoreBlock(const FourFloats& x, int col, int cols, int8_t* codes, BlockScale* scales) {
  float amax = LargestOf(x);
  DUNLIN_UNROLL
  for (int mask = 4; mask > 0; mask /= 2) {
    const float other = dev::ShuffleXor(amax, mask);
    amax = other > amax ? other : amax;
  }
  float scale = amax / 127.0f;
  if (scale == 0.0f) scale = 1.0f;  // zeros, or so small that their scale underflows
  uint32_t bytes[4];
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) bytes[c] = static_cast<uint32_t>(RoundToInt8(x.at[c] / scale));
  const uint32_t packed = PackBytes(bytes);
  const int block = col / kBlockColumns, within = col % kBlockColumns;
  *reinterpret_cast<uint32_t*>(codes + block * kBlockColumns + CodePlace(within)) = packed;
  int32_t sum = dev::Dp4a(packed, 0x01010101u, 0);
  sum += dev::ShuffleXor(sum, 1);
  sum += dev::ShuffleXor(sum, 2);
  const int32_t high = dev::ShuffleXor(sum, 4);
  if (within == 0) {
    scales[block] = BlockScale{col < cols ? scale : 0.0f, static_cast<int16_t>(sum), static_cast<int16_t>(high)};
  }
}

DUNLIN_KERNEL(kThreads, 2) void PrepareCodes(RowsToPrepare from, PreparedRows to) {
  if (IsPadding(from)) return;
  auto* slots = reinterpret_cast<float*>(dev::Shared());
  const Row row = LoadRow(from, to, slots);
  const auto r = static_cast<size_t>(dev::BlockX());
  int8_t* codes = to.codes + r * static_cast<size_t>(to.stride);
  BlockScale* scales = to.scales + r * static_cast<size_t>(to.stride / kBlockColumns);
  ForEachFour(row, [&](int col, const FourFloats& x) { StoreBlock(x, col, to.cols, codes, scales); });
}

// The smallest e >= 0 with amax * 2^-e <= 2^14; that of an infinity is the largest float's.
DUNLIN_DEV int RowExponent(float amax) {
  if (amax <= 0x1p14f) return 0;
  const uint32_t bits = dev::FloatBits(amax);
  return static_cast<int>(bits >> 23) - 127 - 14 + ((bits & 0x7FFFFFu) != 0 ? 1 : 0);
}

struct alignas(8) FourHalves {
  uint32_t low, high;
};

DUNLIN_KERNEL(kThreads, 2) void PrepareHalves(RowsToPrepare from, PreparedRows to) {
  if (IsPadding(from)) return;
  auto* slots = reinterpret_cast<float*>(dev::Shared());
  const Row row = LoadRow(from, to, slots);
  float largest = 0.0f;
  ForEachFour(row, [&](int, const FourFloats& x) {
    const float of_four = LargestOf(x);
    largest = of_four > largest ? of_four : largest;
  });
  const int e = RowExponent(MaxOfWarps(dev::WarpMax(largest), slots + kWarps));
  const float factor = dev::BitsToFloat(static_cast<uint32_t>(127 - e) << 23);
  const auto r = static_cast<size_t>(dev::BlockX());
  uint16_t* halves = to.halves + r * static_cast<size_t>(to.stride);
  ForEachFour(row, [&](int col, const FourFloats& x) {
    *reinterpret_cast<FourHalves*>(halves + col) = FourHalves{dev::PackHalf2(x.at[0] * factor, x.at[1] * factor),
                                                              dev::PackHalf2(x.at[2] * factor, x.at[3] * factor)};
  });
  if (dev::ThreadX() == 0) to.row_scale[r] = dev::BitsToFloat(static_cast<uint32_t>(127 + e) << 23);
}

constexpr int kEmbedThreads = 256;

// Blocks: x: a row each; y: 4 * kEmbedThreads columns each, so that one row keeps several multiprocessors busy.
DUNLIN_KERNEL(kEmbedThreads, 4) void EmbedRows(CudaMatrix table, DeviceBatch batch, float scale, float* x) {
  const int row = dev::BlockX(), col = 4 * (dev::BlockY() * kEmbedThreads + dev::ThreadX());
  if (row >= batch.counts->num_rows || col >= table.cols) return;
  const int id = batch.token_ids[row];
  float* to = x + static_cast<size_t>(row) * static_cast<size_t>(table.cols) + col;
  FourFloats v;  // columns past the end are zeros of the tile
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) v.at[c] = scale * MatrixValue(table, id, col + c);
  if (table.cols % 4 == 0) {
    StoreFour(to, v);
    return;
  }
  DUNLIN_UNROLL
  for (int c = 0; c < 4; ++c) {
    if (col + c < table.cols) to[c] = v.at[c];
  }
}

}  // namespace

void Embed(Device* device, const CudaMatrix& table, const DeviceBatch& batch, float scale, float* x) {
  constexpr int kColumnsOfBlock = 4 * kEmbedThreads;
  const LaunchConfig config{.grid_x = batch.max_rows,
                            .grid_y = (table.cols + kColumnsOfBlock - 1) / kColumnsOfBlock,
                            .threads = kEmbedThreads};
  DUNLIN_LAUNCH(device, config, EmbedRows, table, batch, scale, x);
}

void Prepare(Device* device, const RowsToPrepare& from, const PreparedRows& to) {
  CHECK(to.cols > 0 && to.stride == PreparedStride(to.cols)) << to.cols << ' ' << to.stride;
  CHECK((to.codes != nullptr) != (to.halves != nullptr)) << "either codes or halves";
  const LaunchConfig config{.grid_x = to.rows, .threads = kThreads, .shared_bytes = 2 * kWarps * sizeof(float)};
  if (to.codes != nullptr) {
    DUNLIN_LAUNCH(device, config, PrepareCodes, from, to);
  } else {
    DUNLIN_LAUNCH(device, config, PrepareHalves, from, to);
  }
}

}  // namespace dunlin::kernels::cuda
