// The scheduler's invariants as named checks, callable in every build: "" or the violated one with its values.
// Thread-safety: none needed.  Cost: O(running) each; they allocate only when they have something to say.
#ifndef DUNLIN_WORKER_SCHEDULER_SCHEDULER_CHECKS_H_
#define DUNLIN_WORKER_SCHEDULER_SCHEDULER_CHECKS_H_

#include <cstdint>
#include <span>
#include <string>

#include "worker/scheduler/row_planner.h"

namespace dunlin::worker {

// Invariant "budget": at most max_rows tokens and as many sequences as rows; nobody gets more than it has left, paused
// and blocked ones nothing; every decoding sequence that is ready gets its token.
std::string CheckBudget(std::span<const RowView> running, std::span<const int32_t> rows, const RowLimits& limits);

// Invariant "promises": no sequence holds more than it was promised, and the pages that are available cover all that is
// outstanding. reserved and held: pages per running sequence.
std::string CheckPromises(std::span<const int32_t> reserved, std::span<const int32_t> held, int32_t available_pages);

// Invariant "progress": no prompt that could have advanced has waited for more than 2P steps; called between steps with
// the number of the last one.
std::string CheckProgress(std::span<const RowView> running, uint64_t step, const RowLimits& limits);

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_SCHEDULER_CHECKS_H_
