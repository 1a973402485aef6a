// Decides what one step computes: which waiting sequences join, and how many tokens each running one gets.
// Thread-safety: none needed: pure functions of their arguments; equal arguments give equal plans. Owns: nothing.
// Cost: O(running + lookahead); allocates only while the output vectors grow.
//
// Admission: a sequence joins only when its whole worst case (prompt and every token it may still generate) fits in
// the pages that nobody else has been promised. So a running sequence always gets its next page: nothing that runs
// can starve, and nothing has to be preempted. First come, first served, except that a sequence that does not fit may
// be passed by a bounded number of later, smaller ones.
//
// Sharing a step: every decoding sequence first, one token each. What is left of the budget goes to the prompts: half
// to those with the least left to do (a short prompt never waits for a long one), half in equal shares to all of them
// (a long one always advances). What a share cannot use goes to the oldest that can. Source: decode first as in
// Sarathi-Serve (arXiv 2403.02310); the split is ours.
#ifndef DUNLIN_WORKER_SCHEDULER_SCHEDULER_H_
#define DUNLIN_WORKER_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <span>
#include <vector>

namespace dunlin::worker {

struct SchedulerLimits {
  int max_running = 64;  // sequences at once; <= max_rows, so that prompts are never crowded out
  int max_rows = 256;    // tokens of one step
  int lookahead = 8;     // waiting sequences looked at
  int max_passed = 64;   // times a waiting sequence may be passed by a later one
};

// A sequence that waits, in order of arrival.
struct WaitingSequence {
  int32_t worst_case_pages = 0;
  int32_t times_passed = 0;
};

// A sequence that runs, in order of admission.
struct RunningSequence {
  int32_t remaining_tokens = 0;  // known and not yet computed, >= 1
  bool decoding = false;         // it generates: exactly one token remains
  bool paused = false;           // gets nothing in this step
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  // Indexes into `waiting` that join now, ascending. free_pages: those promised to nobody.
  void PlanAdmission(std::span<const WaitingSequence> waiting, int num_running, int32_t free_pages,
                     std::vector<int32_t>* admitted) const;

  // Tokens of this step per running sequence; 0 = none. step: any number that grows by one from step to step; it only
  // decides who is served first when there are more prompts than tokens to share.
  void PlanRows(std::span<const RunningSequence> running, uint64_t step, std::vector<int32_t>* rows) const;

  const SchedulerLimits& limits() const { return limits_; }

 private:
  SchedulerLimits limits_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_SCHEDULER_H_
