// Decode's host side, the plan of its work and the merge of its parts.
#include <algorithm>
#include <type_traits>

#include "base/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_decode.h"
#include "kernels/cuda/dev.h"
#include "kernels/cuda/launch.h"

namespace dunlin::kernels::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896340736f;
constexpr int kPlanThreads = 256;
constexpr int kMergeThreads = 128;

// ---- The plan: one block; rows in order, so slots too ----

// Sum over the block's threads before this one; *total: over all.
DUNLIN_DEV int BlockPrefix(int value, int* total) {
  auto* warps = reinterpret_cast<int32_t*>(dev::Shared());
  int prefix = value;
  DUNLIN_UNROLL
  for (int step = 1; step < 32; step *= 2) {
    const int before = dev::Shuffle(prefix, dev::Lane() >= step ? dev::Lane() - step : dev::Lane());
    if (dev::Lane() >= step) prefix += before;
  }
  dev::SyncThreads();  // readers of the last call are done
  if (dev::Lane() == 31) warps[dev::Warp()] = prefix;
  dev::SyncThreads();
  *total = 0;
  for (int w = 0; w < kPlanThreads / 32; ++w) {
    if (w < dev::Warp()) prefix += warps[w];
    *total += warps[w];
  }
  return prefix - value;
}

DUNLIN_KERNEL(kPlanThreads, 1)
void PlanDecode(DeviceBatch batch, AttentionPattern pattern, int max_parts, DecodeWorkspace work) {
  const int num_rows = batch.counts->num_rows;
  DecodeCounts counts{0, 0};
  for (int first = 0; first < num_rows; first += kPlanThreads) {
    const int row = first + dev::ThreadX();
    int parts = 0;
    if (row < num_rows && batch.sequences[batch.row_sequence[row]].num_rows < kPrefillRows) {
      parts = NumParts(TilesSeen(pattern, batch.positions[row]).Count(), max_parts);
    }
    int slots = 0, rows = 0;
    const int slot = counts.slots + BlockPrefix(parts, &slots);
    const int place = counts.rows + BlockPrefix(parts > 0 ? 1 : 0, &rows);
    if (parts > 0) work.rows[place] = {row, slot};
    for (int part = 0; part < parts; ++part) work.slots[slot + part] = {row, part};
    counts.slots += slots;
    counts.rows += rows;
  }
  if (dev::ThreadX() == 0) *work.counts = counts;
}

// ---- The merge: a warp per 32 dims of a (row, q head), a dim to a lane ----

struct MergeArgs {
  AttentionPattern pattern;
  int32_t num_q_heads = 0;
  int32_t head_dim = 0;
  int32_t max_parts = 0;
  const int32_t* positions = nullptr;
  const float* sink_logits = nullptr;
  float* out = nullptr;
  DecodeWorkspace work;
};

// `count` is at most 64: a lane holds the weights of parts Lane and Lane + 32. first: the slot and head of part 0.
DUNLIN_DEV float MergeDim(const MergeArgs& args, size_t first, int count, const float* sink, int dim) {
  constexpr int kAhead = 8;  // loads in flight
  const size_t stride = static_cast<size_t>(args.num_q_heads);
  SlotSum part[2];
  DUNLIN_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int p = dev::Lane() + 32 * i;
    part[i] = {kNoReference, 0.0f};
    if (p < count) part[i] = args.work.sums[first + static_cast<size_t>(p) * stride];
  }
  float reference = dev::WarpMax(part[0].reference > part[1].reference ? part[0].reference : part[1].reference);
  if (!(reference > kNoReference)) reference = kNoReference;  // no part has a token
  const float weight[2] = {dev::Exp2(part[0].reference - reference), dev::Exp2(part[1].reference - reference)};
  float sum = dev::WarpSum(weight[0] * part[0].sum + weight[1] * part[1].sum);
  if (sink != nullptr) sum += dev::Exp2(*sink * kLog2E - reference);
  float vector = 0.0f;
  for (int p = 0; p < count; p += kAhead) {
    float x[kAhead];
    DUNLIN_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const size_t slot = first + static_cast<size_t>(p + i < count ? p + i : p) * stride;
      x[i] = args.work.vectors[slot * static_cast<size_t>(args.head_dim) + static_cast<size_t>(dim)];
    }
    DUNLIN_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const float w = dev::Shuffle(p < 32 ? weight[0] : weight[1], p + i);  // of lane (p + i) % 32
      if (p + i < count) vector = dev::Fma(w, x[i], vector);
    }
  }
  return sum == 0.0f ? 0.0f : vector / sum;
}

DUNLIN_KERNEL(kMergeThreads, 8)
void MergeDecode(MergeArgs args) {
  const int blocks_of_dims = args.head_dim / 32;
  const int num_items = args.work.counts->rows * args.num_q_heads * blocks_of_dims;
  for (int item = dev::BlockX() * (kMergeThreads / 32) + dev::Warp(); item < num_items;
       item += dev::GridX() * (kMergeThreads / 32)) {
    const int dim = item % blocks_of_dims * 32 + dev::Lane();
    const int head = item / blocks_of_dims % args.num_q_heads;
    const DecodeRow at = args.work.rows[item / blocks_of_dims / args.num_q_heads];
    const int parts = NumParts(TilesSeen(args.pattern, args.positions[at.row]).Count(), args.max_parts);
    const size_t heads = static_cast<size_t>(args.num_q_heads);
    const float x = MergeDim(args, static_cast<size_t>(at.first_slot) * heads + static_cast<size_t>(head), parts,
                             args.sink_logits == nullptr ? nullptr : args.sink_logits + head, dim);
    args.out[(static_cast<size_t>(at.row) * heads + static_cast<size_t>(head)) * static_cast<size_t>(args.head_dim) +
             static_cast<size_t>(dim)] = x;
  }
}

// ---- Host ----

int DecodeRows(const AttentionLimits& limits) {
  return limits.max_decode_rows > 0 ? limits.max_decode_rows : limits.max_rows;
}

int RowParts(const AttentionLimits& limits) {
  CHECK_LE(limits.max_parts, kMostParts);
  return limits.max_parts > 0 ? limits.max_parts : MaxParts(limits.shape.num_kv_heads);
}

// Slots of a row at most.
int RowSlots(const AttentionLimits& limits) {
  const AttentionShape& shape = limits.shape;
  int tiles = (limits.max_context + kTileTokens - 1) / kTileTokens;
  if (shape.window > 0) {
    // Each run may begin and end within a tile.
    const int64_t seen = (int64_t{shape.window} + kTileTokens - 1) / kTileTokens + 1 +
                         (int64_t{shape.sinks} + kTileTokens - 1) / kTileTokens;
    if (seen < tiles) tiles = static_cast<int>(seen);
  }
  const int parts = (tiles + kMinPartTiles - 1) / kMinPartTiles, most = RowParts(limits);
  return parts < most ? parts : most;
}

bool SameMask(const AttentionShape& a, const AttentionShape& b) {
  return a.num_q_heads == b.num_q_heads && a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim &&
         a.window == b.window && a.sinks == b.sinks && a.top_pages == b.top_pages;
}

}  // namespace

const char* AttentionUnsupported(const AttentionShape& shape, const PageLayout& layout) {
  if (shape.top_pages != 0) return "selection of pages";
  if (shape.num_kv_heads < 1 || shape.num_q_heads % shape.num_kv_heads != 0) return "query heads in uneven groups";
  if (shape.num_q_heads > 16 * shape.num_kv_heads) return "more than 16 query heads to a key head";
  if (shape.head_dim != 64 && shape.head_dim != 128 && shape.head_dim != 256) return "head_dim not 64, 128 or 256";
  if (shape.num_kv_heads != layout.num_kv_heads || shape.head_dim != layout.head_dim) return "pages of other heads";
  if (layout.order != SlabOrder::kDevice) return "pages in the host's order";
  if (layout.page_tokens % kTileTokens != 0) return "page_tokens not a multiple of 16";
  const KvFormat k = layout.k_format, v = layout.v_format;
  const bool formats = (k == KvFormat::kE4M3 && v == KvFormat::kE4M3) || (k == KvFormat::kF16 && v == KvFormat::kF16) ||
                       (k == KvFormat::kInt8 && (v == KvFormat::kInt8 || v == KvFormat::kE4M3));
  if (!formats) return "page formats other than E4M3/E4M3, INT8/INT8, INT8/E4M3 and F16/F16";
  return nullptr;
}

DecodeWorkspace DecodeWorkspaceAt(uint8_t* workspace, const AttentionLimits& limits) {
  const size_t rows = static_cast<size_t>(DecodeRows(limits));
  const size_t slots = rows * static_cast<size_t>(RowSlots(limits));
  const size_t heads = static_cast<size_t>(limits.shape.num_q_heads);
  DecodeWorkspace w;
  const auto take = [&](auto** p, size_t count) {
    *p = workspace == nullptr ? nullptr : reinterpret_cast<std::remove_reference_t<decltype(*p)>>(workspace + w.bytes);
    w.bytes += (count * sizeof(**p) + 255) / 256 * 256;
  };
  take(&w.counts, 1);
  take(&w.rows, rows);
  take(&w.slots, slots);
  take(&w.sums, slots * heads);
  take(&w.vectors, slots * heads * static_cast<size_t>(limits.shape.head_dim));
  return w;
}

size_t AttentionWorkspaceBytes(const Device&, const AttentionLimits& limits) {
  return DecodeWorkspaceAt(nullptr, limits).bytes;
}

void PlanAttention(Device* device, const AttentionLimits& limits, const DeviceBatch& batch, const DevicePages& pages,
                   uint8_t* workspace) {
  const char* unsupported = AttentionUnsupported(limits.shape, pages.layout);
  CHECK(unsupported == nullptr) << unsupported;
  CHECK_LE(batch.max_rows, limits.max_rows);
  LaunchConfig config;
  config.threads = kPlanThreads;
  config.shared_bytes = kPlanThreads / 32 * sizeof(int32_t);
  DUNLIN_LAUNCH(device, config, PlanDecode, batch, limits.shape.pattern(), RowParts(limits),
                DecodeWorkspaceAt(workspace, limits));
}

void DecodeAttention(Device* device, const AttentionCallArgs& call, const AttentionLimits& limits,
                     const DeviceBatch& batch, const DevicePages& pages) {
  const AttentionShape& shape = call.shape;
  CHECK(SameMask(shape, limits.shape)) << "a plan for another shape";
  DecodeArgs args;
  args.slabs = SlabsOfLayer(pages, call.layer);
  args.pattern = shape.pattern();
  args.num_q_heads = shape.num_q_heads;
  args.num_kv_heads = shape.num_kv_heads;
  args.max_parts = RowParts(limits);
  args.cap = call.soft_cap * kLog2E;
  args.score_factor = shape.scale * kLog2E * (call.soft_cap != 0.0f ? 2.0f / call.soft_cap : 1.0f);
  args.q = call.q;
  args.positions = batch.positions;
  args.row_sequence = batch.row_sequence;
  args.sequences = batch.sequences;
  args.pages = batch.pages;
  args.work = DecodeWorkspaceAt(call.workspace, limits);
  const KvFormat k = pages.layout.k_format, v = pages.layout.v_format;
  if (shape.head_dim == 64) {
    LaunchDecode<64>(device, args, k, v);
  } else if (shape.head_dim == 128) {
    LaunchDecode<128>(device, args, k, v);
  } else {
    LaunchDecode<256>(device, args, k, v);
  }
  const MergeArgs merge{args.pattern,    shape.num_q_heads, shape.head_dim, args.max_parts,
                        batch.positions, call.sink_logits,  call.out,       args.work};
  LaunchConfig config;
  config.threads = kMergeThreads;
  const int64_t warps = int64_t{DecodeRows(limits)} * shape.num_q_heads * (shape.head_dim / 32);
  config.grid_x = static_cast<int>(
      std::min<int64_t>((warps + kMergeThreads / 32 - 1) / (kMergeThreads / 32), device->info().num_sms * 8));
  DUNLIN_LAUNCH(device, config, MergeDecode, merge);
}

}  // namespace dunlin::kernels::cuda
