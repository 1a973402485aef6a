// Paged attention on the CPU: the part of CpuOps that cuts a step's batch into items of a few query vectors that share
// one KV head, and computes them on the threads of a job. With enough items each thread takes whole ones; with few (a
// decode step of one sequence, a few drafts behind it) their segments are spread and merged in order by whoever ends an
// item's last one, which gives the same bits.
//
// Thread-safety: Plan from one thread, between jobs; Run from every thread of one job.  Owns scratch; borrows the
// kernels.  Errors: CHECK on shapes that exceed Reserve.  Cost: Plan is linear in the sequences when only the layer
// changed; nothing allocates after Reserve.  Source: ours; flash-decoding's split over keys.
#ifndef DUNLIN_KERNELS_CPU_ATTENTION_H_
#define DUNLIN_KERNELS_CPU_ATTENTION_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/isa/kernel_table.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace dunlin::kernels::cpu {

// One op's arguments, borrowed.
struct AttentionCall {
  const AttentionShape& shape;
  const BatchView& batch;
  const PagedKvView& kv;
  int layer;
  const float* q;
  float* out;
};

class PagedAttention {
 public:
  static constexpr int kPhases = 2;  // of a job that Run uses, from the one it is given

  void Reserve(const OpLimits& limits, const KernelTable& kernels, int num_threads);

  // Prepares Run for this batch; its slices alone matter, not the layer nor the pages' ids.
  void Plan(const AttentionShape& shape, const BatchView& batch, const PageLayout& layout);

  // A thread's share of attention of the planned batch. q must be complete (a barrier before); out is complete when
  // all threads have returned (a barrier after). Passes at most one barrier of its own, the same on every thread.
  void Run(const AttentionCall& call, ThreadPool::Context& context, int phase);

  // Of the call that Run has done.
  uint64_t KvReadBytes(const AttentionCall& call) const;

  // Key bounds of the pages that this step's rows complete; all rows are appended. A thread's share; one phase.
  void WriteCompletedBounds(ThreadPool::Context& context, int phase, const BatchView& batch, const PagedKvView& kv,
                            int layer) const;

 private:
  // Query heads [first_head, first_head + num_heads) of a few rows of one sequence; all read one KV head.
  struct Item {
    int32_t sequence;
    int32_t first_row;  // within the sequence
    int32_t num_rows;
    int32_t kv_head;
    int32_t first_head;
    int32_t num_heads;
    int32_t first_position;
    int32_t first_unit = 0;  // of its split
    int32_t num_units = 0;
    // What the rows' selection makes the item read: tokens, and pages' bounds. With top_pages only.
    int64_t tokens_read = 0;
    int64_t bounds_read = 0;
    int vectors() const { return num_rows * num_heads; }
    int tokens() const { return first_position + num_rows; }
  };
  // A segment of an item, where items are split.
  struct Unit {
    int32_t item;
    int32_t segment;
  };
  // Scratch of one thread; see SegmentArgs and MergeArgs.
  struct Scratch {
    std::unique_ptr<float[]> memory;
    float *q, *tile, *scores, *v_scales, *max, *sum, *acc, *run_max, *run_sum, *run_acc;
    std::vector<float> page_scores;  // of page selection: [pages of a sequence]
    std::vector<int32_t> page_ids;   // likewise
    std::vector<uint32_t> selected;  // [rows of an item][segments_], SegmentArgs::selected
  };

  void ReserveScratch(int head_dim);
  void BuildItems(const AttentionShape& shape, const BatchView& batch);
  void BuildUnits(const AttentionPattern& pattern);
  bool Sees(const AttentionCall& call, const Item& item, int segment, const uint32_t* selected) const;
  SegmentArgs PrepareItem(const AttentionCall& call, const Item& item, Scratch* scratch) const;
  // Sets what is fetched meanwhile: the keys of a segment of an item.
  void FetchNext(const AttentionCall& call, const Item& item, int segment, SegmentArgs* args) const;
  void RunItem(const AttentionCall& call, int index, int next_index, Scratch* scratch);
  void RunUnit(const AttentionCall& call, int index, Scratch* scratch);
  void MergeUnits(const AttentionCall& call, int item_index, Scratch* scratch);
  void Merge(const Item& item, const float* max, const float* sum, const float* acc, Scratch* scratch) const;
  void WriteItem(const AttentionCall& call, const Item& item, const Scratch& scratch) const;
  float* Partial(int unit) const { return partials_ + static_cast<size_t>(unit) * partial_floats_; }
  uint32_t* Selected(int item) {
    return selected_.data() + static_cast<size_t>(item) * static_cast<size_t>(kMaxSplitRows * segments_);
  }

  void ReserveSelection();
  // The pages that a row of the item sees and picks, to selected [segments_]. Returns how many bounds it looked at.
  int SelectRowPages(const AttentionCall& call, const Item& item, int row, Scratch* scratch, uint32_t* selected) const;
  // The same for all rows: selected [num_rows][segments_].
  void SelectItemPages(const AttentionCall& call, Item* item, Scratch* scratch, uint32_t* selected) const;

  static constexpr int kMaxSplitRows = 8;      // of an item whose segments are spread
  static constexpr int kMaxSplitVectors = 24;  // likewise

  const KernelTable* kernels_ = nullptr;
  OpLimits limits_;
  int num_threads_ = 0;
  int segments_ = 0;              // of the longest sequence
  std::vector<Scratch> scratch_;  // per thread

  // The plan.
  std::vector<SequenceSlice> planned_;  // of the batch, without pages
  AttentionPattern pattern_;
  std::vector<Item> items_;  // the longest first
  bool split_ = false;
  std::vector<Unit> units_;                         // of split items, item by item
  std::unique_ptr<std::atomic<int>[]> units_left_;  // per split item
  size_t max_units_ = 0;
  size_t partial_floats_ = 0;
  std::unique_ptr<float[]> partial_memory_;
  float* partials_ = nullptr;          // [unit]: maxima, sums, accumulators
  std::vector<uint32_t> selected_;     // of split items: [item][kMaxSplitRows][segments_]
  mutable std::vector<int64_t> read_;  // of KvReadBytes: [sequence][tokens, bounds]
};

}  // namespace dunlin::kernels::cpu

#endif  // DUNLIN_KERNELS_CPU_ATTENTION_H_
