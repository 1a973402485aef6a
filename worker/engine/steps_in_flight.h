// The steps that were submitted and whose results are still to come, and what each sequence has in them.
// Thread-safety: engine thread only.  Owns: two entries, allocated by the constructor.  Borrows: the sequences, until
// they are discarded.  Cost: O(1); Discard O(sequences of the steps).
#ifndef DUNLIN_WORKER_ENGINE_STEPS_IN_FLIGHT_H_
#define DUNLIN_WORKER_ENGINE_STEPS_IN_FLIGHT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "worker/engine/sequence.h"

namespace dunlin::worker {

// A sequence's part of a step.
struct Planned {
  Sequence* sequence;  // nullptr when it has ended since
  int32_t first;       // of its tokens in the step
  int32_t num_rows;
  int32_t num_judged;  // outputs that judge prompt tokens; they come before the drawn ones
  int32_t num_draws;   // 1, more with a draft, 0 while a prompt is not done
  bool decodes;        // its prompt was done before
  bool is_news;        // some of the rows were never computed before
};

struct SubmittedStep {
  std::vector<Planned> planned;
  int num_rows = 0;
  int num_prefill_rows = 0;
  size_t num_outputs = 0;
  int64_t context = 0;  // as StepTimeModel
  absl::Time begin;
};

class StepsInFlight {
 public:
  static constexpr size_t kMost = 2;

  explicit StepsInFlight(int max_sequences) {
    for (SubmittedStep& s : steps_) s.planned.reserve(static_cast<size_t>(max_sequences));
  }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // A further entry, of anything.
  SubmittedStep& Push() {
    CHECK_LT(size_, kMost);
    return steps_[size_++];
  }
  // The oldest one leaves; *step's memory stays here for a later one.
  void Pop(SubmittedStep* step) {
    CHECK_GT(size_, 0u);
    std::swap(*step, steps_[0]);
    std::swap(steps_[0], steps_[1]);
    --size_;
  }
  void Clear() { size_ = 0; }

  // The sequence ends: what its rows bring will be dropped. Returns how many rows that are.
  int32_t Discard(const Sequence* s) {
    int32_t rows = 0;
    ForEach([&](Planned* p) {
      if (p->sequence != s) return;
      p->sequence = nullptr;
      rows += p->num_rows;
    });
    return rows;
  }
  // Calls f(Planned*) for each entry of each step.
  template <typename F>
  void ForEach(const F& f) {
    for (size_t i = 0; i < size_; ++i) {
      for (Planned& p : steps_[i].planned) f(&p);
    }
  }

  // "" or what is wrong, given every running sequence: their counts are those of the entries.
  std::string CheckInvariants(std::span<const std::unique_ptr<Sequence>> running) const {
    int32_t entries = 0, counted = 0;
    for (size_t i = 0; i < size_; ++i) {
      for (const Planned& p : steps_[i].planned) entries += p.sequence != nullptr ? 1 : 0;
    }
    for (const auto& s : running) {
      int32_t steps = 0, unknown = 0;
      for (size_t i = 0; i < size_; ++i) {
        for (const Planned& p : steps_[i].planned) {
          steps += p.sequence == s.get() ? 1 : 0;
          unknown += p.sequence == s.get() && p.num_draws > 0 ? 1 : 0;
        }
      }
      if (s->steps_in_flight != steps || s->unknown_tokens != unknown) {
        return absl::StrCat("in flight: ", s->steps_in_flight, " steps and ", s->unknown_tokens, " tokens counted, ",
                            steps, " and ", unknown, " submitted");
      }
      counted += steps;
    }
    return counted == entries ? "" : absl::StrCat("in flight: ", entries - counted, " entries of nobody who runs");
  }

 private:
  std::array<SubmittedStep, kMost> steps_;  // the oldest first
  size_t size_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_STEPS_IN_FLIGHT_H_
