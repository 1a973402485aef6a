// What the attention and append kernels of a KernelTable are given. Plain values; pointers are borrowed for the call.
// Thread-safety, errors: those of the kernels (kernel_table.h).  Source: ours.
#ifndef DUNLIN_KERNELS_CPU_ISA_ATTENTION_ARGS_H_
#define DUNLIN_KERNELS_CPU_ISA_ATTENTION_ARGS_H_

#include <cstdint>

#include "kernels/attention_mask.h"
#include "kernels/paged_kv.h"

namespace dunlin::kernels::cpu {

inline constexpr int kSegmentTokens = 256;  // attention merges partial results of this many positions

// Query vectors of one segment call: enough to amortise decoding a page, few enough for the cache.
inline constexpr int kMaxItemVectors = 48;
// Between vectors' scores: a power of two would put them all in few cache sets.
inline constexpr int kScoreStride = kSegmentTokens + 16;
// Whose decoded keys or values a kernel holds at a time.
inline constexpr int kTileTokens = 64;

// The kernels read stored values divided by KvLoadFactor, a power of two. Attention multiplies it back in two steps, so
// that everything between stays far from a float's limits and exact: queries (for K) and weights (for V) by
// KvInputFactor before, scores and sums of values by KvOutputFactor after.
constexpr float KvLoadFactor(KvFormat format) { return format == KvFormat::kE4M3 ? 0x1p120f : 1.0f; }
constexpr float KvInputFactor(KvFormat format) { return format == KvFormat::kE4M3 ? 0x1p84f : 1.0f; }
constexpr float KvOutputFactor(KvFormat format) { return format == KvFormat::kE4M3 ? 0x1p36f : 1.0f; }

// Attention of a few query vectors that read one KV head, over the positions [begin, end) of one segment.
struct SegmentArgs {
  const PagedKvView* kv = nullptr;
  const int32_t* pages = nullptr;  // of the sequence, from its token 0
  int layer = 0;
  int kv_head = 0;
  int begin = 0;      // multiple of kSegmentTokens
  int end = 0;        // <= begin + kSegmentTokens; tokens from here on are not read
  int num_rows = 0;   // row i stands at position first_position + i and sees nothing later
  int num_heads = 0;  // query heads per row
  int first_position = 0;
  AttentionPattern pattern;
  // Bit i of row r's word selected[r * selected_stride]: the row sees page begin / page_tokens + i. nullptr = all
  // pages.
  const uint32_t* selected = nullptr;
  int selected_stride = 0;
  const float* q = nullptr;  // [num_rows * num_heads][head_dim], times the attention scale and K's KvInputFactor
  // The keys of these pages are fetched meanwhile: the caller's next segment.
  const int32_t* next_pages = nullptr;
  int num_next_pages = 0;
  int next_kv_head = 0;
  float* tile = nullptr;      // [kTileTokens * head_dim]
  float* scores = nullptr;    // [num_rows * num_heads][kScoreStride]
  float* v_scales = nullptr;  // [kSegmentTokens]
  // Results, per query vector: the maximum score, sum of exp(score - max), sum of exp(score - max) * V [head_dim] /
  // V's KvOutputFactor. A vector that sees nothing of the segment gets sum 0.
  float* max = nullptr;
  float* sum = nullptr;
  float* acc = nullptr;
};

// Folds segments' results of several query vectors into the running ones of the segments before: a running sum of 0 =
// nothing yet; a sum of 0 changes nothing. The maxima have room for kVectorPadding more (of any content).
inline constexpr int kVectorPadding = 16;
struct MergeArgs {
  int count = 0;  // at most kMaxItemVectors
  int head_dim = 0;
  const float* max = nullptr;  // [count], as the others; acc: [count][head_dim]
  const float* sum = nullptr;
  const float* acc = nullptr;
  float* run_max = nullptr;
  float* run_sum = nullptr;
  float* run_acc = nullptr;
};

// Bounds (attention_mask.h) of the pages [first, last) of a sequence for the query vectors of one KV head.
struct ScorePagesArgs {
  const PagedKvView* kv = nullptr;
  const int32_t* pages = nullptr;  // of the sequence, from its token 0; all complete
  int layer = 0;
  int kv_head = 0;
  int first = 0;
  int last = 0;
  const float* q = nullptr;  // [num_heads][head_dim]
  int num_heads = 0;
  float* scores = nullptr;  // by page; [first, last) are written
};

// A token's K and V [num_kv_heads, head_dim], and where they go.
struct TokenSlot {
  uint8_t* page;
  int slot;
  const float* k;
  const float* v;
};

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ISA_ATTENTION_ARGS_H_
