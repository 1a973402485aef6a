// The pages promised to running sequences, and who gives way when promises were too small. Thread-safety: pure
// functions. Cost: O(1); ChooseVictim O(running), called only under pressure.
//
// A sequence is admitted with a reservation of R pages: its tokens so far and its predicted output. It holds h <= R of
// them; R - h are outstanding. Unpromised = available pages (blank or evictable) - sum of all outstanding, never < 0:
// what is promised can always be had. A sequence that outgrows R takes unpromised pages one by one; when there are
// none, ChooseVictim says who is preempted, and its pages and promises come free. A sequence that was preempted
// kMaxPreemptions times is protected: it is readmitted with R = its worst case (prompt and all it may generate) and is
// never preempted again.
//
// Why something always finishes (and everything does, within a priority):
//  1. Submit refuses what does not fit in the empty pool, so a sequence's worst case fits when nothing else runs.
//  2. Every sequence is preempted at most kMaxPreemptions times: after that it never outgrows R, so it never asks for a
//     victim, and ChooseVictim never names it. So there are finitely many preemptions per request.
//  3. A request for a page is always met: from R, from unpromised pages, or after preempting others; if only protected
//     ones are left beside it, the asking sequence, which is not protected (2), gives way itself.
//  4. So between preemptions every running sequence that is neither paused nor blocked advances: a decoding one in
//  every
//     step, a prompt every 2P steps (row_planner.h). Its work is finite, so it ends. A blocked one waits for another
//     that advances in that step; a paused one is ended by the reader's stall limit, a pinned page by the end of its
//     transfer.
//  5. Hence running sequences end, and with the last of them every page is unpromised; the head of the queue is passed
//  a
//     bounded number of times (admission_queue.h) and then joins, at the latest into the empty pool (1).
// The oldest running sequence of the highest priority is never named while another that is not protected runs, so the
// work done first is kept and the preempted are the late and the unimportant.
#ifndef DUNLIN_WORKER_SCHEDULER_RESERVATION_H_
#define DUNLIN_WORKER_SCHEDULER_RESERVATION_H_

#include <cstdint>
#include <span>

#include "worker/scheduler/output_predictor.h"

namespace dunlin::worker {

inline constexpr int32_t kMaxPreemptions = 2;

// What a reservation is made of.
struct ReservationInput {
  int32_t prompt_tokens = 0;
  int32_t generated = 0;    // before it joins (again)
  int32_t max_output = 0;   // tokens it may generate in all, after clipping to the context
  int32_t preemptions = 0;  // so far
};

// R for a sequence that is about to join. The last token of the output is never fed back and needs no room.
int32_t ReservePages(const ReservationInput& sequence, const OutputPredictor& predictor, int32_t page_tokens);
// R in the worst case: what Submit compares with the pool.
int32_t WorstCasePages(const ReservationInput& sequence, int32_t page_tokens);

// A running sequence, as a candidate for preemption.
struct VictimView {
  int32_t priority = 0;
  uint64_t age_rank = 0;  // number of its arrival: the smaller the older
  int32_t preemptions = 0;
  int32_t recompute_tokens = 0;  // computed tokens in pages that nobody else holds
  int32_t freed_pages = 0;       // pages that nobody else holds, plus its outstanding promise
  bool paused = false;
};

// Who gives way so that `asking` can have a page: an index into `running`, possibly `asking` itself; -1 when nobody
// can, which cannot happen while `asking` is not protected. Lowest priority first, then the fewest preemptions, then
// the least recompute_tokens per freed page, then the youngest.
int32_t ChooseVictim(std::span<const VictimView> running, int32_t asking);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_RESERVATION_H_
