// PagedAttention: cuts the batch into items of a few query vectors that share one KV head. With enough items each
// thread takes whole ones; with few (a decode step of one sequence) their segments are spread and merged in order,
// which gives the same bits.
#include <algorithm>

#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr int kItemHeads = 8;  // query heads of an item

size_t Index(int64_t i) { return static_cast<size_t>(i); }

int HeadsPerItem(const AttentionShape& shape) { return std::min(shape.num_q_heads / shape.num_kv_heads, kItemHeads); }
int RowsPerItem(const AttentionShape& shape) { return std::max(1, kMaxItemVectors / HeadsPerItem(shape)); }
int ItemsPerRow(const AttentionShape& shape) {
  const int group = shape.num_q_heads / shape.num_kv_heads;
  return shape.num_kv_heads * ((group + kItemHeads - 1) / kItemHeads);
}
int Segments(int tokens) { return (tokens + kSegmentTokens - 1) / kSegmentTokens; }
// Whether a row of the item at positions [first, first + rows) may see something of the segment; and, where rows select
// pages, whether one does.
bool SeesSegment(const AttentionPattern& pattern, int first, int rows, int segment, const uint32_t* selected,
                 int stride) {
  const int begin = segment * kSegmentTokens;
  if (!TokensSeen(pattern, first, first + rows - 1).Meets(begin, begin + kSegmentTokens)) return false;
  if (selected == nullptr) return true;
  for (int r = 0; r < rows; ++r) {
    if (selected[r * stride + segment] != 0) return true;
  }
  return false;
}

}  // namespace

void CpuOps::ReserveAttention() {
  const AttentionShape& a = limits_.attention;
  if (a.num_kv_heads == 0) return;
  CHECK_EQ(a.num_q_heads % a.num_kv_heads, 0);
  CHECK(a.head_dim % 8 == 0 && a.head_dim > 0) << "head_dim " << a.head_dim;
  const size_t vectors = Index(std::max(kMaxItemVectors, kItemHeads));
  const size_t dim = Index(a.head_dim);
  constexpr size_t kMaxPageTokens = 64;
  for (ThreadScratch& s : scratch_) {
    s.q.assign(vectors * dim, 0.0f);
    s.tile.assign((kMaxPageTokens + 2) * dim, 0.0f);
    s.scores.assign(vectors * kSegmentTokens, 0.0f);
    s.v_scales.assign(kSegmentTokens, 0.0f);
    for (std::vector<float>* v : {&s.max, &s.sum, &s.run_max, &s.run_sum}) v->assign(vectors, 0.0f);
    s.acc.assign(vectors * dim, 0.0f);
    s.run_acc.assign(vectors * dim, 0.0f);
  }
  segments_ = Segments(limits_.max_context);
  items_.clear();
  items_.reserve(Index(limits_.max_rows) * Index(ItemsPerRow(a)));
  const size_t partial = Index(HeadsPerItem(a)) * (2 + dim);
  // Not initialised: pages of it that long contexts never need are never touched.
  partials_.reset(new float[2 * Index(num_threads()) * Index(Segments(limits_.max_context)) * partial]);
  ReserveSelection();
}

void CpuOps::BuildAttentionItems(const AttentionShape& shape, const BatchView& batch) {
  items_.clear();
  const int group = shape.num_q_heads / shape.num_kv_heads;
  const int rows_per_item = RowsPerItem(shape);
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceSlice& s = batch.sequences[i];
    // The last rows see most: they come first, so that no thread ends alone with the longest item.
    const int last = (s.num_rows - 1) / rows_per_item * rows_per_item;
    for (int row = last; s.num_rows > 0 && row >= 0; row -= rows_per_item) {
      for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
        for (int h = 0; h < group; h += kItemHeads) {
          items_.push_back({static_cast<int32_t>(i), row, std::min(rows_per_item, s.num_rows - row), kv_head,
                            kv_head * group + h, std::min(kItemHeads, group - h), 0, 0});
        }
      }
    }
  }
}

SegmentArgs CpuOps::PrepareItem(const AttentionCall& call, const AttentionItem& item, ThreadScratch* scratch) const {
  const SequenceSlice& sequence = call.batch.sequences[Index(item.sequence)];
  const int dim = call.shape.head_dim;
  const int vector_floats = item.num_heads * dim;
  for (int r = 0; r < item.num_rows; ++r) {
    const size_t row = Index(sequence.first_row + item.first_row + r);
    kernels_->scale(call.shape.scale * KvLoadFactor(call.kv.layout.k_format), vector_floats,
                    call.q + (row * Index(call.shape.num_q_heads) + Index(item.first_head)) * Index(dim),
                    scratch->q.data() + r * vector_floats);
  }
  SegmentArgs args;
  args.kv = &call.kv;
  args.pages = sequence.pages;
  args.layer = call.layer;
  args.kv_head = item.kv_head;
  args.num_rows = item.num_rows;
  args.num_heads = item.num_heads;
  args.first_position = sequence.context_tokens + item.first_row;
  args.pattern = call.shape.pattern();
  args.q = scratch->q.data();
  args.tile = scratch->tile.data();
  args.scores = scratch->scores.data();
  args.v_scales = scratch->v_scales.data();
  args.max = scratch->max.data();
  args.sum = scratch->sum.data();
  args.acc = scratch->acc.data();
  return args;
}

void CpuOps::WriteItem(const AttentionCall& call, const AttentionItem& item, const ThreadScratch& scratch) const {
  const SequenceSlice& sequence = call.batch.sequences[Index(item.sequence)];
  const int dim = call.shape.head_dim;
  for (int r = 0; r < item.num_rows; ++r) {
    const size_t row = Index(sequence.first_row + item.first_row + r);
    for (int h = 0; h < item.num_heads; ++h) {
      const size_t vector = Index(r * item.num_heads + h);
      kernels_->scale(KvLoadFactor(call.kv.layout.v_format) / scratch.run_sum[vector], dim,
                      scratch.run_acc.data() + vector * Index(dim),
                      call.out + (row * Index(call.shape.num_q_heads) + Index(item.first_head + h)) * Index(dim));
    }
  }
}

void CpuOps::AttendItem(const AttentionCall& call, AttentionItem* item, ThreadScratch* scratch) const {
  const uint32_t* selected = nullptr;
  if (call.shape.top_pages > 0) {
    SelectItemPages(call, item, scratch, scratch->selected.data());
    selected = scratch->selected.data();
  }
  SegmentArgs args = PrepareItem(call, *item, scratch);
  const int dim = call.shape.head_dim;
  const int tokens = args.first_position + item->num_rows;
  const int vectors = item->num_rows * item->num_heads;
  std::fill_n(scratch->run_sum.begin(), vectors, 0.0f);
  args.selected_stride = segments_;
  for (int s = 0; s < Segments(tokens); ++s) {
    if (!SeesSegment(args.pattern, args.first_position, item->num_rows, s, selected, segments_)) continue;
    args.begin = s * kSegmentTokens;
    args.end = std::min(tokens, args.begin + kSegmentTokens);
    args.selected = selected != nullptr ? selected + s : nullptr;
    kernels_->attend_segment(args);
    for (int v = 0; v < vectors; ++v) {
      kernels_->merge_segment(args.max[v], args.sum[v], args.acc + v * dim, dim, &scratch->run_max[Index(v)],
                              &scratch->run_sum[Index(v)], scratch->run_acc.data() + v * dim);
    }
  }
  WriteItem(call, *item, *scratch);
}

void CpuOps::AttendSplit(const AttentionCall& call, int num_segments, ThreadPool::Context& context, int phase) {
  ThreadScratch* scratch = &scratch_[Index(context.thread())];
  const int num_items = static_cast<int>(items_.size());
  if (call.shape.top_pages > 0) {
    for (int64_t i = context.Next(phase); i < num_items; i = context.Next(phase)) {
      SelectItemPages(call, &items_[Index(i)], scratch, &selected_[Index(i) * Index(segments_)]);
    }
    context.Barrier();
  }
  while (true) {
    const int64_t next = context.Next(phase + 1);
    if (next >= int64_t{num_items} * num_segments) break;
    const int segment = static_cast<int>(next / num_items);
    const int i = static_cast<int>(next % num_items);
    const AttentionItem& item = items_[Index(i)];
    if (!SplitItemSees(call, i, segment)) continue;
    SegmentArgs args = PrepareItem(call, item, scratch);
    float* to = PartialAt(i, segment);
    args.begin = segment * kSegmentTokens;
    args.end = std::min(args.first_position + 1, args.begin + kSegmentTokens);
    args.selected = call.shape.top_pages > 0 ? &selected_[Index(i) * Index(segments_) + Index(segment)] : nullptr;
    args.max = to;
    args.sum = to + item.num_heads;
    args.acc = to + 2 * item.num_heads;
    kernels_->attend_segment(args);
  }
  context.Barrier();
  for (int64_t i = context.Next(phase + 2); i < num_items; i = context.Next(phase + 2)) {
    MergeSplit(call, static_cast<int>(i), num_segments, scratch);
  }
}

void CpuOps::MergeSplit(const AttentionCall& call, int item_index, int num_segments, ThreadScratch* scratch) const {
  const AttentionItem& item = items_[Index(item_index)];
  const int dim = call.shape.head_dim;
  std::fill_n(scratch->run_sum.begin(), item.num_heads, 0.0f);
  for (int s = 0; s < num_segments; ++s) {
    if (!SplitItemSees(call, item_index, s)) continue;
    const float* from = PartialAt(item_index, s);
    for (int h = 0; h < item.num_heads; ++h) {
      kernels_->merge_segment(from[h], from[item.num_heads + h], from + 2 * item.num_heads + h * dim, dim,
                              &scratch->run_max[Index(h)], &scratch->run_sum[Index(h)],
                              scratch->run_acc.data() + h * dim);
    }
  }
  WriteItem(call, item, *scratch);
}

bool CpuOps::SplitItemSees(const AttentionCall& call, int item_index, int segment) const {
  const AttentionItem& item = items_[Index(item_index)];
  const int position = call.batch.sequences[Index(item.sequence)].context_tokens + item.first_row;
  const uint32_t* selected =
      call.shape.top_pages > 0 ? selected_.data() + Index(item_index) * Index(segments_) : nullptr;
  return SeesSegment(call.shape.pattern(), position, 1, segment, selected, segments_);
}

float* CpuOps::PartialAt(int item, int segment) const {
  const size_t partial = Index(HeadsPerItem(limits_.attention)) * Index(2 + limits_.attention.head_dim);
  return partials_.get() + (Index(item) * Index(segments_) + Index(segment)) * partial;
}

int CpuOps::PlanAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv) {
  CHECK_LE(batch.num_rows, limits_.max_rows);
  CHECK_EQ(shape.head_dim, limits_.attention.head_dim);
  CHECK_EQ(shape.num_q_heads, limits_.attention.num_q_heads);
  CHECK_EQ(shape.num_kv_heads, limits_.attention.num_kv_heads);
  const int page_tokens = kv.layout.page_tokens;
  CHECK(page_tokens == 8 || page_tokens == 16 || page_tokens == 32 || page_tokens == 64) << page_tokens;
  CHECK(shape.top_pages >= 0 && shape.sinks >= 0 && shape.window >= 0);
  CHECK(shape.top_pages == 0 || (kv.layout.has_key_bounds() && limits_.attention.top_pages > 0));
  BuildAttentionItems(shape, batch);
  bool single_rows = true;
  int longest = 0;
  for (const SequenceSlice& s : batch.sequences) {
    const int tokens = s.context_tokens + s.num_rows;
    CHECK_LE(tokens, limits_.max_context);
    single_rows = single_rows && s.num_rows <= 1;
    longest = std::max(longest, tokens);
  }
  const int segments = Segments(longest);
  return single_rows && items_.size() <= 2 * Index(num_threads()) && segments > 1 ? segments : 0;
}

void CpuOps::Attend(const AttentionCall& call, int split_segments, ThreadPool::Context& context, int phase) {
  if (split_segments > 0) return AttendSplit(call, split_segments, context, phase);
  while (true) {
    const auto i = static_cast<size_t>(context.Next(phase));
    if (i >= items_.size()) return;
    AttendItem(call, &items_[i], &scratch_[Index(context.thread())]);
  }
}

Traffic CpuOps::PagedAttention(const AttentionShape& shape, const BatchView& batch, const PagedKvView& kv, int layer,
                               const float* q, float* out) {
  const int split_segments = PlanAttention(shape, batch, kv);
  const AttentionCall call{shape, batch, kv, layer, q, out};
  pool_.Run([&](ThreadPool::Context& context) { Attend(call, split_segments, context, /*phase=*/0); });
  return AttentionTraffic(call);
}

Traffic CpuOps::AttentionTraffic(const AttentionCall& call) const {
  Traffic t;
  t.kv_read_bytes = KvReadBytes(call);
  t.activation_bytes = 2 * static_cast<uint64_t>(call.batch.num_rows) *
                       Index(call.shape.num_q_heads * call.shape.head_dim) * sizeof(float);
  return t;
}

}  // namespace dunlin::kernels::cpu
