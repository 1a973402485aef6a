// What a row of attention may see, for every backend: full causal, a sliding window with attention sinks, and the rules
// of page-level top-k selection. Plain arithmetic on plain values, callable from host and device code, so that all
// kernels and the reference answer from the same lines.
//
// Position p sees the tokens [0, sinks) and [p - window + 1, p] (window 0: all of [0, p]). With top_pages = K > 0, each
// row picks K pages per KV head among those that hold a token it sees, and sees only the tokens of these: its own page
// first, then page 0, then the others by falling bound of their scores (PageScoredBefore). At most K pages in all: the
// two count among them. With K or fewer pages to choose from, all are picked. The bound of a page is the maximum over
// the query heads h of the KV head's group of sum over d of max(q[h][d] * min[d], q[h][d] * max[d]), min and max being
// the page's key bounds (paged_kv.h): no key of the page scores higher. q is the op's q, without the scale. Pages
// before the row's own are complete, so their bounds exist, and a row's choice depends on nothing but the row.
//
// Thread-safety: pure functions.  Errors: none.  Source: ours; the bound is that of Quest (arXiv 2406.10774), the sinks
// are those of StreamingLLM (arXiv 2309.17453) over unchanged positions.
#ifndef DUNLIN_KERNELS_ATTENTION_MASK_H_
#define DUNLIN_KERNELS_ATTENTION_MASK_H_

#include <cstdint>

#include "kernels/host_device.h"

namespace dunlin::kernels {

struct AttentionPattern {
  int32_t window = 0;     // 0 = full causal
  int32_t sinks = 0;      // with a window only
  int32_t top_pages = 0;  // 0 = every page
};

// Indices (of tokens, or of pages) in two runs: [0, sink_end) and [low, end). Where the runs touch they are one:
// sink_end = 0, low = 0.
struct SeenRuns {
  int32_t sink_end = 0;
  int32_t low = 0;
  int32_t end = 0;
  DUNLIN_HOST_DEVICE constexpr bool Contains(int32_t i) const {
    return i >= 0 && i < end && (i >= low || i < sink_end);
  }
  DUNLIN_HOST_DEVICE constexpr int32_t Count() const { return sink_end + end - low; }
  // Whether any index of [first, last) is in a run.
  DUNLIN_HOST_DEVICE constexpr bool Meets(int32_t first, int32_t last) const {
    return first < last && (first < sink_end || (first < end && last > low));
  }
};

// Tokens that at least one of the rows at positions [first, last] of a sequence sees, by window and sinks alone.
DUNLIN_HOST_DEVICE constexpr SeenRuns TokensSeen(const AttentionPattern& pattern, int32_t first, int32_t last) {
  const int32_t low = pattern.window > 0 && first >= pattern.window ? first - pattern.window + 1 : 0;
  return pattern.sinks < low ? SeenRuns{pattern.sinks, low, last + 1} : SeenRuns{0, 0, last + 1};
}

// Pages that hold at least one of the tokens.
DUNLIN_HOST_DEVICE constexpr SeenRuns PagesOf(const SeenRuns& tokens, int32_t page_tokens) {
  const int32_t sink_end = (tokens.sink_end + page_tokens - 1) / page_tokens;
  const int32_t low = tokens.low / page_tokens;
  const int32_t end = (tokens.end + page_tokens - 1) / page_tokens;
  return sink_end < low ? SeenRuns{sink_end, low, end} : SeenRuns{0, 0, end};
}

// Whether the row picks among its pages at all.
DUNLIN_HOST_DEVICE constexpr bool SelectsPages(const AttentionPattern& pattern, const SeenRuns& pages) {
  return pattern.top_pages > 0 && pages.Count() > pattern.top_pages;
}

// Total order of the pages that are neither the row's own nor page 0; equal bounds: the lower page first. Scores are
// not NaN (a NaN bound counts as minus infinity).
DUNLIN_HOST_DEVICE constexpr bool PageScoredBefore(float score_a, int32_t page_a, float score_b, int32_t page_b) {
  return score_a > score_b || (score_a == score_b && page_a < page_b);
}

}  // namespace dunlin::kernels

#endif  // DUNLIN_KERNELS_ATTENTION_MASK_H_
