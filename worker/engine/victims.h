// Shows the running sequences to ChooseVictim, with what each would give and cost. Thread-safety: engine thread only.
// Owns: scratch, allocated by the constructor.  Cost: O(pages of the running sequences); only under pressure.
#ifndef DUNLIN_WORKER_ENGINE_VICTIMS_H_
#define DUNLIN_WORKER_ENGINE_VICTIMS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "worker/engine/sequence.h"
#include "worker/engine/sequence_pages.h"
#include "worker/scheduler/reservation.h"

namespace dunlin::worker {

class Victims {
 public:
  Victims(int max_sequences, int32_t num_pages) : page_uses_(static_cast<size_t>(num_pages), 0) {
    views_.reserve(static_cast<size_t>(max_sequences));
    index_.reserve(static_cast<size_t>(max_sequences));
  }

  // Index of who gives way so that running[asking] can have a page, possibly itself; -1 when nobody can. Those that are
  // nullptr are gone already.
  int32_t Choose(std::span<const std::unique_ptr<Sequence>> running, size_t asking, const SequencePages& pages);

 private:
  std::vector<VictimView> views_;
  std::vector<int32_t> index_;      // of the views, in `running`
  std::vector<int32_t> page_uses_;  // tables that name the page
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_VICTIMS_H_
