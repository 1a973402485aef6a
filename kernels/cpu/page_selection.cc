// Page-level top-k selection (attention_mask.h): writing the key bounds of completed pages, and each row's choice.
#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/cpu/attention.h"

namespace dunlin::kernels::cpu {
namespace {

size_t Index(int64_t i) { return static_cast<size_t>(i); }

}  // namespace

void PagedAttention::ReserveSelection() {
  if (limits_.attention.top_pages == 0) return;
  constexpr int kFewestPageTokens = 8;
  const size_t pages = Index(limits_.max_context / kFewestPageTokens + 1);
  for (Scratch& s : scratch_) {
    s.page_scores.assign(pages, 0.0f);
    s.page_ids.assign(pages, 0);
    s.selected.assign(kMaxItemVectors * Index(segments_), 0);
  }
}

void PagedAttention::WriteCompletedBounds(ThreadPool::Context& context, int phase, const BatchView& batch,
                                          const PagedKvView& kv, int layer) const {
  float* scratch = scratch_[Index(context.thread())].tile;
  size_t s = 0;  // rows come in ascending order, and so do sequences
  while (true) {
    const int64_t r = context.Next(phase);
    if (r >= batch.num_rows) return;
    const int end = batch.positions[r] + 1;
    if (end % kv.layout.page_tokens != 0) continue;
    while (batch.sequences[s].first_row + batch.sequences[s].num_rows <= r) ++s;
    kernels_->key_bounds(kv.layout, kv.page(batch.sequences[s].pages[end / kv.layout.page_tokens - 1]), layer, scratch);
  }
}

int PagedAttention::SelectRowPages(const AttentionCall& call, const Item& item, int row, Scratch* scratch,
                                   uint32_t* selected) const {
  const SequenceSlice& sequence = call.batch.sequences[Index(item.sequence)];
  const AttentionPattern pattern = call.shape.pattern();
  const int page_tokens = call.kv.layout.page_tokens;
  const int per_segment = kSegmentTokens / page_tokens;
  const int position = sequence.context_tokens + item.first_row + row;
  const SeenRuns pages = PagesOf(TokensSeen(pattern, position, position), page_tokens);
  std::fill_n(selected, segments_, 0u);
  const auto select = [&](int page) { selected[page / per_segment] |= 1u << (page % per_segment); };
  if (!SelectsPages(pattern, pages)) {
    for (int p = 0; p < pages.sink_end; ++p) select(p);
    for (int p = pages.low; p < pages.end; ++p) select(p);
    return 0;
  }
  const int own = pages.end - 1;
  select(own);
  const int left = pattern.top_pages - 1;
  if (left == 0) return 0;
  const int group = call.shape.num_q_heads / call.shape.num_kv_heads;
  const int64_t first_head =
      int64_t{sequence.first_row + item.first_row + row} * call.shape.num_q_heads + item.kv_head * group;
  float* scores = scratch->page_scores.data();
  ScorePagesArgs args{&call.kv,
                      sequence.pages,
                      call.layer,
                      item.kv_head,
                      0,
                      pages.sink_end,
                      call.q + Index(first_head) * Index(call.shape.head_dim),
                      group,
                      scores};
  kernels_->score_pages(args);
  args.first = pages.low;
  args.last = own;
  kernels_->score_pages(args);
  int count = 0;
  for (int p = 0; p < pages.sink_end; ++p) scratch->page_ids[Index(count++)] = p;
  for (int p = pages.low; p < own; ++p) scratch->page_ids[Index(count++)] = p;
  if (pages.Contains(0)) scores[0] = std::numeric_limits<float>::infinity();
  const auto ids = scratch->page_ids.begin();
  std::nth_element(ids, ids + left, ids + count,
                   [scores](int32_t a, int32_t b) { return PageScoredBefore(scores[a], a, scores[b], b); });
  for (int i = 0; i < left; ++i) select(scratch->page_ids[Index(i)]);
  return count;
}

void PagedAttention::SelectItemPages(const AttentionCall& call, Item* item, Scratch* scratch,
                                     uint32_t* selected) const {
  int scored = 0;
  for (int r = 0; r < item->num_rows; ++r) {
    scored = std::max(scored, SelectRowPages(call, *item, r, scratch, selected + Index(r) * Index(segments_)));
  }
  item->tokens_read = 0;
  item->bounds_read = 0;
  // The items of one KV head choose alike: the first counts.
  if (item->first_head % (call.shape.num_q_heads / call.shape.num_kv_heads) != 0) return;
  int64_t pages = 0;
  for (int s = 0; s < segments_; ++s) {
    uint32_t any = 0;
    for (int r = 0; r < item->num_rows; ++r) any |= selected[Index(r) * Index(segments_) + Index(s)];
    pages += std::popcount(any);
  }
  const SequenceSlice& sequence = call.batch.sequences[Index(item->sequence)];
  const int end = sequence.context_tokens + item->first_row + item->num_rows;
  const int page_tokens = call.kv.layout.page_tokens;
  item->tokens_read = pages * page_tokens - (page_tokens - end % page_tokens) % page_tokens;
  item->bounds_read = scored;
}

uint64_t PagedAttention::KvReadBytes(const AttentionCall& call) const {
  const PageLayout& layout = call.kv.layout;
  const AttentionPattern pattern = call.shape.pattern();
  const auto heads = static_cast<uint64_t>(layout.num_kv_heads);
  const uint64_t head_token_bytes = layout.TokenLayerBytes() / heads;
  if (pattern.top_pages > 0) {
    std::fill(read_.begin(), read_.end(), 0);
    for (const Item& item : items_) {
      read_[2 * Index(item.sequence)] += item.tokens_read;
      read_[2 * Index(item.sequence) + 1] += item.bounds_read;
    }
  }
  uint64_t bytes = 0;
  for (size_t i = 0; i < call.batch.sequences.size(); ++i) {
    const SequenceSlice& s = call.batch.sequences[i];
    if (s.num_rows == 0) continue;
    const SeenRuns seen = TokensSeen(pattern, s.context_tokens, s.context_tokens + s.num_rows - 1);
    uint64_t tokens = heads * static_cast<uint64_t>(seen.Count());
    if (pattern.top_pages > 0) {
      tokens = std::min(tokens, static_cast<uint64_t>(read_[2 * i]));
      const auto pages = static_cast<uint64_t>(PagesOf(seen, layout.page_tokens).Count());
      bytes += std::min(static_cast<uint64_t>(read_[2 * i + 1]), heads * pages) * layout.HeadBoundsBytes();
    }
    bytes += tokens * head_token_bytes;
  }
  return bytes;
}

}  // namespace dunlin::kernels::cpu
