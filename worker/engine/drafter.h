// Speculation's choice: which guessed tokens a step verifies beside those that are known, and the room for them.
// Thread-safety: engine thread only.  Owns: scratch, allocated by the constructor.  Borrows: the options.  Cost: O(1)
// per sequence and drafted token.
#ifndef DUNLIN_WORKER_ENGINE_DRAFTER_H_
#define DUNLIN_WORKER_ENGINE_DRAFTER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "worker/engine/engine.h"
#include "worker/engine/sequence.h"
#include "worker/engine/sequence_pages.h"
#include "worker/scheduler/draft_planner.h"
#include "worker/scheduler/step_time_model.h"

namespace dunlin::worker {

class Drafter {
 public:
  // max_rows: of one step.
  Drafter(const EngineOptions& options, int32_t max_rows);

  // The sequence joins for the first time; its sampler is there.
  void Begin(Sequence* s) const;
  // Drafts for sequences that have their rows and pages of this step, while nobody else has any. They get room in pages
  // that are promised to nobody else. True when there are any.
  bool Add(std::span<Sequence* const> decoders, uint64_t step, const StepTimeModel& model, SequencePages* pages);
  // Whether a step of these sequences, whose last tokens are yet to come, would rather have drafts than not wait for
  // them: as far as the tokens before can tell. Changes nothing.
  bool Wants(std::span<Sequence* const> decoders, uint64_t step, const StepTimeModel& model);

 private:
  // What may be verified of the sequence's guesses: no token beyond its limit, none that would end it.
  DraftView Draft(Sequence* s) const;

  const EngineOptions& options_;
  DraftLimits limits_;
  std::vector<DraftView> views_;
  std::vector<int32_t> rows_;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_DRAFTER_H_
