#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace dunlin::kernels::cpu {
namespace {

constexpr int kItemHeads = 8;  // query heads of an item

size_t Index(int64_t i) { return static_cast<size_t>(i); }
size_t RoundUp(size_t floats) { return (floats + 15) / 16 * 16; }

int Segments(int tokens) { return (tokens + kSegmentTokens - 1) / kSegmentTokens; }

// 64-byte aligned floats of a block that has 16 to spare.
float* Align(float* p) { return p + (64 - reinterpret_cast<uintptr_t>(p) % 64) % 64 / sizeof(float); }

}  // namespace

void PagedAttention::Reserve(const OpLimits& limits, const KernelTable& kernels, int num_threads) {
  kernels_ = &kernels;
  limits_ = limits;
  num_threads_ = num_threads;
  planned_.clear();
  items_.clear();
  const AttentionShape& a = limits.attention;
  if (a.num_kv_heads == 0) return;
  CHECK_EQ(a.num_q_heads % a.num_kv_heads, 0);
  CHECK(a.head_dim % 8 == 0 && a.head_dim > 0) << "head_dim " << a.head_dim;
  segments_ = Segments(limits.max_context);
  ReserveScratch(a.head_dim);
  const int group = a.num_q_heads / a.num_kv_heads;
  const size_t max_items =
      Index(limits.max_rows) * Index(a.num_kv_heads) * Index((group + kItemHeads - 1) / kItemHeads);
  items_.reserve(max_items);
  planned_.reserve(Index(limits.max_rows));
  read_.assign(2 * Index(limits.max_rows), 0);
  const size_t split_items = 4 * Index(num_threads);
  partial_floats_ =
      2 * RoundUp(kMaxSplitVectors + kVectorPadding) + RoundUp(Index(kMaxSplitVectors) * Index(a.head_dim));
  constexpr size_t kMaxPartialFloats = size_t{8} << 20;  // longer contexts of several rows are not split
  max_units_ = std::min(split_items * Index(segments_), std::max<size_t>(kMaxPartialFloats / partial_floats_, 1));
  units_.reserve(max_units_);
  units_left_ = std::make_unique<std::atomic<int>[]>(split_items);
  // Not initialised: pages of it that long contexts never need are never touched.
  partial_memory_.reset(new float[max_units_ * partial_floats_ + 16]);
  partials_ = Align(partial_memory_.get());
  selected_.clear();
  if (a.top_pages > 0) selected_.assign(split_items * kMaxSplitRows * Index(segments_), 0);
  ReserveSelection();
}

void PagedAttention::ReserveScratch(int head_dim) {
  scratch_.clear();
  scratch_.resize(Index(num_threads_));
  const size_t dim = Index(head_dim);
  const size_t per_vector = RoundUp(kMaxItemVectors + kVectorPadding);
  const size_t vectors = RoundUp(kMaxItemVectors * dim);
  const size_t tile = RoundUp((kTileTokens + 2) * dim);  // and room for a page's bounds
  const size_t scores = RoundUp(kMaxItemVectors * kScoreStride);
  for (Scratch& s : scratch_) {
    s.memory = std::make_unique<float[]>(4 * per_vector + 3 * vectors + tile + scores + kSegmentTokens + 16);
    float* next = Align(s.memory.get());
    const auto take = [&next](size_t floats) {
      float* const p = next;
      next += floats;
      return p;
    };
    s.q = take(vectors);
    s.acc = take(vectors);
    s.run_acc = take(vectors);
    s.tile = take(tile);
    s.scores = take(scores);
    s.v_scales = take(kSegmentTokens);
    s.max = take(per_vector);
    s.sum = take(per_vector);
    s.run_max = take(per_vector);
    s.run_sum = take(per_vector);
  }
}

void PagedAttention::Plan(const AttentionShape& shape, const BatchView& batch, const PageLayout& layout) {
  const AttentionPattern pattern = shape.pattern();
  const auto same_slice = [](const SequenceSlice& a, const SequenceSlice& b) {
    return a.first_row == b.first_row && a.num_rows == b.num_rows && a.context_tokens == b.context_tokens;
  };
  const bool same_pattern =
      pattern.window == pattern_.window && pattern.sinks == pattern_.sinks && pattern.top_pages == pattern_.top_pages;
  if (same_pattern &&
      std::equal(planned_.begin(), planned_.end(), batch.sequences.begin(), batch.sequences.end(), same_slice)) {
    return;
  }
  CHECK_LE(batch.num_rows, limits_.max_rows);
  CHECK_LE(batch.sequences.size(), Index(limits_.max_rows));
  CHECK_EQ(shape.head_dim, limits_.attention.head_dim);
  CHECK_EQ(shape.num_q_heads, limits_.attention.num_q_heads);
  CHECK_EQ(shape.num_kv_heads, limits_.attention.num_kv_heads);
  const int page_tokens = layout.page_tokens;
  CHECK(page_tokens == 8 || page_tokens == 16 || page_tokens == 32 || page_tokens == 64) << page_tokens;
  CHECK(shape.top_pages >= 0 && shape.sinks >= 0 && shape.window >= 0);
  CHECK(shape.top_pages == 0 || (layout.has_key_bounds() && limits_.attention.top_pages > 0));
  pattern_ = pattern;
  planned_.assign(batch.sequences.begin(), batch.sequences.end());
  BuildItems(shape, batch);
  BuildUnits(pattern);
}

void PagedAttention::BuildItems(const AttentionShape& shape, const BatchView& batch) {
  items_.clear();
  const int group = shape.num_q_heads / shape.num_kv_heads;
  const int rows_per_item = std::max(1, kMaxItemVectors / std::min(group, kItemHeads));
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceSlice& s = batch.sequences[i];
    CHECK_LE(s.context_tokens + s.num_rows, limits_.max_context);
    for (int row = 0; row < s.num_rows; row += rows_per_item) {
      for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
        for (int h = 0; h < group; h += kItemHeads) {
          items_.push_back({static_cast<int32_t>(i), row, std::min(rows_per_item, s.num_rows - row), kv_head,
                            kv_head * group + h, std::min(kItemHeads, group - h), s.context_tokens + row});
        }
      }
    }
  }
  // The longest first, so that no thread ends alone with one.
  const auto work = [](const Item& item) { return int64_t{item.tokens()} * item.vectors(); };
  const auto before = [&work](const Item& a, const Item& b) {
    if (work(a) != work(b)) return work(a) > work(b);
    if (a.sequence != b.sequence) return a.sequence < b.sequence;
    return a.first_row != b.first_row ? a.first_row > b.first_row : a.first_head < b.first_head;
  };
  std::sort(items_.begin(), items_.end(), before);
}

void PagedAttention::BuildUnits(const AttentionPattern& pattern) {
  units_.clear();
  split_ = !items_.empty() && items_.size() <= 4 * Index(num_threads_) && num_threads_ > 1;
  size_t units = 0;
  for (const Item& item : items_) {
    split_ = split_ && item.num_rows <= kMaxSplitRows && item.vectors() <= kMaxSplitVectors;
    units += Index(Segments(item.tokens()));
  }
  // Whole items do as well where each has one segment.
  split_ = split_ && units > items_.size() && units <= max_units_;
  if (!split_) return;
  for (size_t i = 0; i < items_.size(); ++i) {
    Item& item = items_[i];
    item.first_unit = static_cast<int32_t>(units_.size());
    const SeenRuns seen = TokensSeen(pattern, item.first_position, item.tokens() - 1);
    for (int s = 0; s < Segments(item.tokens()); ++s) {
      if (!seen.Meets(s * kSegmentTokens, (s + 1) * kSegmentTokens)) continue;
      units_.push_back({static_cast<int32_t>(i), s});
    }
    item.num_units = static_cast<int32_t>(units_.size()) - item.first_unit;
    units_left_[i].store(item.num_units, std::memory_order_relaxed);
  }
}

// Whether a row of the item may see something of the segment; and, where rows select pages, whether one does.
bool PagedAttention::Sees(const AttentionCall& call, const Item& item, int segment, const uint32_t* selected) const {
  const int begin = segment * kSegmentTokens;
  const SeenRuns seen = TokensSeen(call.shape.pattern(), item.first_position, item.tokens() - 1);
  if (!seen.Meets(begin, begin + kSegmentTokens)) return false;
  if (selected == nullptr) return true;
  for (int r = 0; r < item.num_rows; ++r) {
    if (selected[r * segments_ + segment] != 0) return true;
  }
  return false;
}

SegmentArgs PagedAttention::PrepareItem(const AttentionCall& call, const Item& item, Scratch* scratch) const {
  const SequenceSlice& sequence = call.batch.sequences[Index(item.sequence)];
  const int dim = call.shape.head_dim;
  const int vector_floats = item.num_heads * dim;
  for (int r = 0; r < item.num_rows; ++r) {
    const size_t row = Index(sequence.first_row + item.first_row + r);
    kernels_->scale(call.shape.scale * KvInputFactor(call.kv.layout.k_format), vector_floats,
                    call.q + (row * Index(call.shape.num_q_heads) + Index(item.first_head)) * Index(dim),
                    scratch->q + r * vector_floats);
  }
  SegmentArgs args;
  args.kv = &call.kv;
  args.pages = sequence.pages;
  args.layer = call.layer;
  args.kv_head = item.kv_head;
  args.num_rows = item.num_rows;
  args.num_heads = item.num_heads;
  args.first_position = item.first_position;
  args.pattern = call.shape.pattern();
  args.selected_stride = segments_;
  args.q = scratch->q;
  args.tile = scratch->tile;
  args.scores = scratch->scores;
  args.v_scales = scratch->v_scales;
  args.max = scratch->max;
  args.sum = scratch->sum;
  args.acc = scratch->acc;
  return args;
}

void PagedAttention::FetchNext(const AttentionCall& call, const Item& item, int segment, SegmentArgs* args) const {
  args->num_next_pages = 0;
  const int begin = segment * kSegmentTokens;
  const int end = std::min(item.tokens(), begin + kSegmentTokens);
  if (begin >= end || call.shape.top_pages > 0) return;
  const int page_tokens = call.kv.layout.page_tokens;
  args->next_pages = call.batch.sequences[Index(item.sequence)].pages + begin / page_tokens;
  args->num_next_pages = (end - begin + page_tokens - 1) / page_tokens;
  args->next_kv_head = item.kv_head;
}

void PagedAttention::Merge(const Item& item, const float* max, const float* sum, const float* acc,
                           Scratch* scratch) const {
  kernels_->merge_segment({item.vectors(), limits_.attention.head_dim, max, sum, acc, scratch->run_max,
                           scratch->run_sum, scratch->run_acc});
}

void PagedAttention::WriteItem(const AttentionCall& call, const Item& item, const Scratch& scratch) const {
  const SequenceSlice& sequence = call.batch.sequences[Index(item.sequence)];
  const int dim = call.shape.head_dim;
  for (int r = 0; r < item.num_rows; ++r) {
    const size_t row = Index(sequence.first_row + item.first_row + r);
    for (int h = 0; h < item.num_heads; ++h) {
      const int vector = r * item.num_heads + h;
      kernels_->scale(KvOutputFactor(call.kv.layout.v_format) / scratch.run_sum[vector], dim,
                      scratch.run_acc + vector * dim,
                      call.out + (row * Index(call.shape.num_q_heads) + Index(item.first_head + h)) * Index(dim));
    }
  }
}

void PagedAttention::RunItem(const AttentionCall& call, int index, int next_index, Scratch* scratch) {
  Item& item = items_[Index(index)];
  const uint32_t* selected = nullptr;
  if (call.shape.top_pages > 0) {
    SelectItemPages(call, &item, scratch, scratch->selected.data());
    selected = scratch->selected.data();
  }
  SegmentArgs args = PrepareItem(call, item, scratch);
  std::fill_n(scratch->run_sum, item.vectors(), 0.0f);
  const int num_segments = Segments(item.tokens());
  for (int s = 0; s < num_segments; ++s) {
    if (!Sees(call, item, s, selected)) continue;
    args.begin = s * kSegmentTokens;
    args.end = std::min(item.tokens(), args.begin + kSegmentTokens);
    args.selected = selected != nullptr ? selected + s : nullptr;
    args.num_next_pages = 0;
    if (s + 1 < num_segments) {
      FetchNext(call, item, s + 1, &args);
    } else if (Index(next_index) < items_.size()) {
      FetchNext(call, items_[Index(next_index)], 0, &args);
    }
    kernels_->attend_segment(args);
    Merge(item, args.max, args.sum, args.acc, scratch);
  }
  WriteItem(call, item, *scratch);
}

void PagedAttention::RunUnit(const AttentionCall& call, int index, Scratch* scratch) {
  const Unit& unit = units_[Index(index)];
  const Item& item = items_[Index(unit.item)];
  const uint32_t* selected = call.shape.top_pages > 0 ? Selected(unit.item) : nullptr;
  if (Sees(call, item, unit.segment, selected)) {
    SegmentArgs args = PrepareItem(call, item, scratch);
    args.begin = unit.segment * kSegmentTokens;
    args.end = std::min(item.tokens(), args.begin + kSegmentTokens);
    args.selected = selected != nullptr ? selected + unit.segment : nullptr;
    const size_t next = Index(index + num_threads_);
    if (next < units_.size()) FetchNext(call, items_[Index(units_[next].item)], units_[next].segment, &args);
    args.max = Partial(index);
    args.sum = args.max + RoundUp(kMaxSplitVectors + kVectorPadding);
    args.acc = args.sum + RoundUp(kMaxSplitVectors + kVectorPadding);
    kernels_->attend_segment(args);
  }
  std::atomic<int>& left = units_left_[Index(unit.item)];
  if (left.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  left.store(item.num_units, std::memory_order_relaxed);  // for the next layer
  MergeUnits(call, unit.item, scratch);
}

void PagedAttention::MergeUnits(const AttentionCall& call, int item_index, Scratch* scratch) {
  const Item& item = items_[Index(item_index)];
  const uint32_t* selected = call.shape.top_pages > 0 ? Selected(item_index) : nullptr;
  std::fill_n(scratch->run_sum, item.vectors(), 0.0f);
  for (int u = item.first_unit; u < item.first_unit + item.num_units; ++u) {
    if (!Sees(call, item, units_[Index(u)].segment, selected)) continue;
    const float* max = Partial(u);
    const float* sum = max + RoundUp(kMaxSplitVectors + kVectorPadding);
    Merge(item, max, sum, sum + RoundUp(kMaxSplitVectors + kVectorPadding), scratch);
  }
  WriteItem(call, item, *scratch);
}

void PagedAttention::Run(const AttentionCall& call, ThreadPool::Context& context, int phase) {
  Scratch* scratch = &scratch_[Index(context.thread())];
  const auto num_items = static_cast<int64_t>(items_.size());
  if (!split_) {
    for (int64_t i = context.Next(phase); i < num_items; i = context.Next(phase)) {
      // Threads advance about alike: what this one takes next is a good guess.
      RunItem(call, static_cast<int>(i), static_cast<int>(i) + num_threads_, scratch);
    }
    return;
  }
  if (call.shape.top_pages > 0) {
    for (int64_t i = context.Next(phase + 1); i < num_items; i = context.Next(phase + 1)) {
      SelectItemPages(call, &items_[Index(i)], scratch, Selected(static_cast<int>(i)));
    }
    context.Barrier();
  }
  const auto num_units = static_cast<int64_t>(units_.size());
  for (int64_t u = context.Next(phase); u < num_units; u = context.Next(phase)) {
    RunUnit(call, static_cast<int>(u), scratch);
  }
}

}  // namespace dunlin::kernels::cpu
