// How many tokens each running sequence gets in a step. Thread-safety: none needed.  Owns: scratch.  A plan depends on
// the arguments alone.  Cost: O(running), plus O(prompts * log prompts); no allocation once the scratch has grown.
//
// Decoding sequences first, one token each. What is left of the step goes to the prompts: half to those with the least
// left to do (a short prompt never waits for a long one), half by turns to those that have not advanced for the
// longest, the older the more, `partial_prefills` of them at once in all. A prompt advances at least every 2 *
// partial_prefills steps however many there are and however small the step: those whose turn is due come before
// everything else. A chunk that leaves its prompt unfinished ends at a page boundary, unless the step has no room for
// that. A paused or blocked sequence gets nothing; its share goes to others.
//
// The step: max_rows, less when a decoding sequence is present and the step-time model says that more would exceed the
// inter-token target; but prompts are never left less than one page (or one token for each whose turn is due).
// Source: decode first as in Sarathi-Serve (arXiv 2403.02310); the split is ours.
#ifndef DUNLIN_WORKER_SCHEDULER_ROW_PLANNER_H_
#define DUNLIN_WORKER_SCHEDULER_ROW_PLANNER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "worker/scheduler/step_time_model.h"

namespace dunlin::worker {

struct RowLimits {
  int32_t max_rows = 256;  // of one step; >= the sequences that run at once
  int32_t page_tokens = 16;
  int partial_prefills = 4;  // P
};

// A running sequence, in order of admission.
struct RowView {
  int32_t remaining = 0;       // tokens known and not yet computed; >= 1, exactly 1 when decoding
  int32_t computed = 0;        // tokens in its pages
  uint64_t admitted_step = 0;  // when it joined
  uint64_t last_advanced = 0;  // the last step that gave it rows, or in which it was blocked or paused, or joined
  bool decoding = false;
  bool paused = false;
  bool blocked = false;  // waits for another to compute the page it needs next
};

class RowPlanner {
 public:
  explicit RowPlanner(const RowLimits& limits);

  // Rows that the step may have by the model: as `Plan`'s time_limit. kUnlimited without a decoding sequence or target.
  static int32_t TimeLimit(std::span<const RowView> running, const StepTimeModel& model, absl::Duration target);

  // Tokens per running sequence; 0 = none. step: grows by one per step. time_limit: rows of the step by the model.
  void Plan(std::span<const RowView> running, uint64_t step, int32_t time_limit, std::vector<int32_t>* rows);

  const RowLimits& limits() const { return limits_; }

 private:
  int32_t NumDue(std::span<const RowView> running, uint64_t step) const;
  void GiveShortest(std::span<const RowView> running, int32_t* share, std::vector<int32_t>* rows) const;
  void GiveTurns(std::span<const RowView> running, uint64_t step, int32_t turns, int32_t due, int32_t* share,
                 std::vector<int32_t>* rows);
  void GiveRest(std::span<const RowView> running, int32_t share, std::vector<int32_t>* rows) const;

  const RowLimits limits_;
  std::vector<int32_t> by_turn_;    // prompts, the one that has not advanced for the longest first
  std::vector<int32_t> by_length_;  // prompts, the shortest first
  std::vector<int32_t> chosen_;     // for a turn in this step
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_ROW_PLANNER_H_
