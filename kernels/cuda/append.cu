#include "kernels/cuda/append.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/head_vector.h"
#include "kernels/cuda/kv_codes.h"
#include "kernels/cuda/kv_feedback.h"
#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda {
namespace {

// A block has one head of four rows, a warp each.
constexpr int kBlockRows = 4;
constexpr int kThreads = 32 * kBlockRows;
static_assert(kThreads == kFeedbackThreads);

// K or V of one layer. Offsets in bytes from a page's begin, of the first head.
struct Side {
  const float* x;
  const float* norm;
  KvVectorRounding rounding;
  KvFormat format;
  size_t slab;
  size_t slab_bytes;  // of a head
  size_t scale;
  size_t feedback_floats;  // of a head
  bool rotates;
};

struct AppendKernelArgs {
  DeviceBatch batch;
  DevicePages pages;
  Side k;
  Side v;
  RopeTable rope;
  float* q;
  const float* q_norm;
  int num_q_heads;
  float eps;
  uint32_t* saturated;
};

// All warps of the block together. shared: of this warp, room for the head.
template <int kFours>
DUNLIN_DEV HeadCodes<kFours> CompensatedCodes(KvFormat format, const uint16_t* order, const FeedbackStream& stream,
                                              const HeadVector<kFours>& head, float* shared) {
  constexpr int kValues = 4 * kFours;
  const int dim = stream.head_dim;
  StoreHead(head, dim, shared);
  dev::SyncWarp();
  float y[kValues];
  DUNLIN_UNROLL
  for (int m = 0; m < kValues; ++m) {
    const int place = dev::Lane() + 32 * m;
    y[m] = place < dim ? shared[order[place]] : 0.0f;
  }
  dev::SyncWarp();
  Compensate<kFours>(format, stream, y);
  auto* codes = reinterpret_cast<uint8_t*>(shared);
  DUNLIN_UNROLL
  for (int m = 0; m < kValues; ++m) {
    const int place = dev::Lane() + 32 * m;
    // + 0.0f: no code for -0, whose sign would hang on how the zero came about.
    if (place < dim) codes[order[place]] = static_cast<uint8_t>(CodeOf(format, y[m] + 0.0f));
  }
  dev::SyncWarp();
  HeadCodes<kFours> packed;
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    packed.four[i] = 0;
    if (FirstDim(i) >= dim) continue;
    uint32_t bytes[4];
    DUNLIN_UNROLL
    for (int c = 0; c < 4; ++c) bytes[c] = codes[FirstDim(i) + c];
    packed.four[i] = PackBytes(bytes);
  }
  return packed;
}

// As FloatToHalf, NaN too: the instruction would lose the payload.
DUNLIN_DEV uint32_t PackHalves(float low, float high) {
  const auto half = [](float x) {
    const uint32_t bits = dev::FloatBits(x);
    if (x == x) return dev::PackHalf2(x, 0.0f) & 0xFFFFu;
    const uint32_t payload = (bits >> 13) & 0x3FFu;
    return ((bits >> 16) & 0x8000u) | 0x7C00u | (payload != 0 ? payload : 0x200u);
  };
  return half(low) | half(high) << 16;
}

struct alignas(8) FourHalves {
  uint32_t low, high;
};

struct Slot {
  uint8_t* page;
  int token;  // in the page
};
DUNLIN_DEV Slot SlotOf(const DeviceBatch& batch, const DevicePages& pages, int row, int position) {
  const int page_tokens = pages.layout.page_tokens;
  const int first_page = batch.sequences[batch.row_sequence[row]].first_page;
  const int page = batch.pages[first_page + position / page_tokens];
  return {pages.base + static_cast<size_t>(page) * pages.layout.page_bytes, position % page_tokens};
}

template <int kFours>
DUNLIN_DEV void StoreHalves(const PageLayout& layout, const HeadVector<kFours>& head, int token, uint8_t* slab) {
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    if (FirstDim(i) >= layout.head_dim) continue;
    const FourFloats& x = head.x[i];
    *reinterpret_cast<FourHalves*>(slab + layout.RowIndex(token, FirstDim(i), 2)) =
        FourHalves{PackHalves(x.at[0], x.at[1]), PackHalves(x.at[2], x.at[3])};
  }
}

template <int kFours>
DUNLIN_DEV void StoreCodes(const PageLayout& layout, const HeadCodes<kFours>& codes, int token, uint8_t* slab) {
  DUNLIN_UNROLL
  for (int i = 0; i < kFours; ++i) {
    if (FirstDim(i) >= layout.head_dim) continue;
    *reinterpret_cast<uint32_t*>(slab + layout.RowIndex(token, FirstDim(i), 1)) = codes.four[i];
  }
}

DUNLIN_DEV void CountLost(int lost, uint32_t* saturated) {
  if (dev::Ballot(lost > 0) == 0 || saturated == nullptr) return;
  if (lost > 0) dev::AtomicAdd(saturated, static_cast<uint32_t>(lost));
}

// A warp whose row is padding keeps the others company where they need it (counts is false) and stores nothing.
template <int kFours>
DUNLIN_DEV void AppendHead(const AppendKernelArgs& args, const Side& side, int head_index, int row, bool counts,
                           const FeedbackStream& stream, float* shared) {
  const PageLayout& layout = args.pages.layout;
  const int dim = layout.head_dim, position = args.batch.positions[row];
  const auto in_layer =
      static_cast<size_t>(row) * static_cast<size_t>(layout.num_kv_heads) + static_cast<size_t>(head_index);
  HeadVector<kFours> head = LoadHead<kFours>(side.x + in_layer * static_cast<size_t>(dim), dim);
  const Slot slot = SlotOf(args.batch, args.pages, row, position);
  if (side.norm != nullptr) NormHead(side.norm, args.eps, dim, &head);
  if (side.rotates) RotateHead(args.rope, position, dim, shared, &head);
  uint8_t* slab = slot.page + side.slab + static_cast<size_t>(head_index) * side.slab_bytes;
  if (side.format == KvFormat::kF16) {
    if (counts) StoreHalves(layout, head, slot.token, slab);
    return;
  }
  const size_t of_head = static_cast<size_t>(head_index) * static_cast<size_t>(dim);
  int lost;
  const float amax =
      CentreHead(side.rounding.centre != nullptr ? side.rounding.centre + of_head : nullptr, dim, &head, &lost);
  uint32_t scale;
  ScaleHead(side.format, amax, &head, &scale);
  HeadCodes<kFours> codes;
  const bool finite = dev::Ballot(lost > 0) == 0;
  if (side.rounding.feedback != nullptr) {
    codes = CompensatedCodes(side.format, side.rounding.order + of_head, stream, head, shared);
  }
  if (side.rounding.feedback == nullptr || !finite) codes = NearestCodes(side.format, head);
  if (!counts) return;
  StoreCodes(layout, codes, slot.token, slab);
  CountLost(lost, args.saturated);
  if (dev::Lane() != 0) return;
  const auto scale_index = static_cast<size_t>(head_index * layout.page_tokens + slot.token);
  if (side.format == KvFormat::kE4M3) {
    slot.page[side.scale + scale_index] = static_cast<uint8_t>(scale);
  } else {
    *reinterpret_cast<uint32_t*>(slot.page + side.scale + 4 * scale_index) = scale;
  }
}

// Blocks: x: four rows each; y: the query heads, then K's, then V's.
template <int kFours>
DUNLIN_KERNEL(kThreads, 4)
void RotateAndAppendKernel(AppendKernelArgs args) {
  const int num_rows = args.batch.counts->num_rows, first_row = kBlockRows * dev::BlockX();
  if (first_row >= num_rows) return;
  const bool counts = first_row + dev::Warp() < num_rows;
  const int row = counts ? first_row + dev::Warp() : first_row;
  const int dim = args.pages.layout.head_dim, num_kv_heads = args.pages.layout.num_kv_heads;
  auto* all_shared = reinterpret_cast<float*>(dev::Shared());
  float* shared = all_shared + dev::Warp() * dim;
  if (dev::BlockY() < args.num_q_heads) {
    if (!counts) return;
    const auto at =
        static_cast<size_t>(row) * static_cast<size_t>(args.num_q_heads) + static_cast<size_t>(dev::BlockY());
    float* q = args.q + at * static_cast<size_t>(dim);
    HeadVector<kFours> head = LoadHead<kFours>(q, dim);
    if (args.q_norm != nullptr) NormHead(args.q_norm, args.eps, dim, &head);
    RotateHead(args.rope, args.batch.positions[row], dim, shared, &head);
    StoreHead(head, dim, q);
    return;
  }
  const int index = dev::BlockY() - args.num_q_heads;
  const bool is_v = index >= num_kv_heads;
  Side side = args.k;
  if (is_v) side = args.v;
  const int head_index = is_v ? index - num_kv_heads : index;
  if (side.rounding.feedback == nullptr) {
    if (counts) AppendHead<kFours>(args, side, head_index, row, true, FeedbackStream{}, shared);
    return;
  }
  const size_t of_head = static_cast<size_t>(head_index) * side.feedback_floats;
  const FeedbackStream stream =
      StartFeedback<kFours>(side.rounding.feedback + of_head, all_shared + kBlockRows * dim, dim);
  AppendHead<kFours>(args, side, head_index, row, counts, stream, shared);
}

constexpr int kCopyThreads = 256;
constexpr size_t kCopyRun = 4;  // accesses of a thread in flight

DUNLIN_KERNEL(kCopyThreads, 4)
void CopyPagesKernel(uint8_t* base, size_t page_bytes, const int32_t* from, const int32_t* to) {
  const uint8_t* source = base + static_cast<size_t>(from[dev::BlockX()]) * page_bytes;
  uint8_t* target = base + static_cast<size_t>(to[dev::BlockX()]) * page_bytes;
  constexpr size_t kStep = kCopyThreads * 16, kRun = kCopyRun * kStep;
  const size_t stride = static_cast<size_t>(dev::GridY()) * kRun;
  for (size_t run = static_cast<size_t>(dev::BlockY()) * kRun; run < page_bytes; run += stride) {
    const size_t first = run + static_cast<size_t>(dev::ThreadX()) * 16;
    dev::U4 held[kCopyRun];
    DUNLIN_UNROLL
    for (size_t i = 0; i < kCopyRun; ++i) {
      if (first + i * kStep < page_bytes) held[i] = dev::LoadStream16(source + first + i * kStep);
    }
    DUNLIN_UNROLL
    for (size_t i = 0; i < kCopyRun; ++i) {
      if (first + i * kStep < page_bytes) *reinterpret_cast<dev::U4*>(target + first + i * kStep) = held[i];
    }
  }
}

// K or V: where its heads lie in a page, and how they are rounded (formats of more than eight bits take no notice).
Side MakeSide(const PageLayout& layout, KvFormat format, const KvVectorRounding& rounding) {
  CHECK(format == KvFormat::kE4M3 || format == KvFormat::kInt8 || format == KvFormat::kF16)
      << "format " << static_cast<int>(format);
  CHECK(rounding.feedback == nullptr || rounding.order != nullptr);
  Side side{};
  side.format = format;
  if (KvScaleBytes(format) > 0) side.rounding = rounding;
  side.slab_bytes = layout.HeadValues() * KvValueBytes(format);
  side.feedback_floats = KvFeedbackValues(layout.head_dim);
  return side;
}

}  // namespace

void RotateAndAppend(Device* device, const AppendArgs& args, const DeviceBatch& batch, const DevicePages& pages) {
  const PageLayout& layout = pages.layout;
  const AttentionShape& shape = args.shape;
  CHECK(layout.order == SlabOrder::kDevice && !layout.has_key_bounds());
  CHECK(shape.head_dim == layout.head_dim && shape.num_kv_heads == layout.num_kv_heads);
  CHECK(shape.head_dim % 16 == 0 && shape.head_dim <= kMaxRoundedDim) << shape.head_dim;
  CHECK(args.rope.dims % 2 == 0 && args.rope.dims <= shape.head_dim) << args.rope.dims;
  AppendKernelArgs kernel_args{.batch = batch,
                               .pages = pages,
                               .k = MakeSide(layout, layout.k_format, args.rounding.k),
                               .v = MakeSide(layout, layout.v_format, args.rounding.v),
                               .rope = args.rope,
                               .q = args.q,
                               .q_norm = args.q_norm,
                               .num_q_heads = shape.num_q_heads,
                               .eps = args.eps,
                               .saturated = args.saturated};
  kernel_args.k.x = args.k;
  kernel_args.k.norm = args.k_norm;
  kernel_args.k.rotates = true;
  kernel_args.k.slab = layout.KOffset(args.layer, 0);
  kernel_args.k.scale = layout.KScaleOffset(args.layer, 0);
  kernel_args.v.x = args.v;
  kernel_args.v.slab = layout.VOffset(args.layer, 0);
  kernel_args.v.scale = layout.VScaleOffset(args.layer, 0);
  const auto dim = static_cast<size_t>(shape.head_dim);
  const bool compensates = kernel_args.k.rounding.feedback != nullptr || kernel_args.v.rounding.feedback != nullptr;
  const LaunchConfig config{
      .grid_x = (batch.max_rows + kBlockRows - 1) / kBlockRows,
      .grid_y = shape.num_q_heads + 2 * shape.num_kv_heads,
      .threads = kThreads,
      .shared_bytes = kBlockRows * dim * sizeof(float) + (compensates ? FeedbackSharedBytes(shape.head_dim) : 0)};
  if (shape.head_dim <= 128) {
    DUNLIN_LAUNCH(device, config, (RotateAndAppendKernel<1>), kernel_args);
  } else if (shape.head_dim <= 256) {
    DUNLIN_LAUNCH(device, config, (RotateAndAppendKernel<2>), kernel_args);
  } else {
    DUNLIN_LAUNCH(device, config, (RotateAndAppendKernel<4>), kernel_args);
  }
}

void CopyPages(Device* device, const DevicePages& pages, const int32_t* from, const int32_t* to, int num_moves) {
  constexpr size_t kPartBytes = 4 * kCopyRun * kCopyThreads * 16;  // of a page, for one block
  const size_t parts = (pages.layout.page_bytes + kPartBytes - 1) / kPartBytes;
  const LaunchConfig config{
      .grid_x = num_moves, .grid_y = static_cast<int>(std::min<size_t>(parts, 1024)), .threads = kCopyThreads};
  DUNLIN_LAUNCH(device, config, CopyPagesKernel, pages.base, pages.layout.page_bytes, from, to);
}

}  // namespace dunlin::kernels::cuda
