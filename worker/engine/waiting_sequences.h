// The sequences that wait for admission, with the order that AdmissionQueue gives them. Thread-safety: engine thread
// only.  Owns: the sequences.  Cost: as AdmissionQueue; EndIf one look at 24 bytes and a flag per waiting sequence.
#ifndef DUNLIN_WORKER_ENGINE_WAITING_SEQUENCES_H_
#define DUNLIN_WORKER_ENGINE_WAITING_SEQUENCES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/sequence.h"
#include "worker/scheduler/admission_queue.h"

namespace dunlin::worker {

class WaitingSequences {
 public:
  explicit WaitingSequences(TenantCounters* counters) : queue_(AdmissionLimits(), counters) {}

  void Add(std::unique_ptr<Sequence> s) {
    WaitingEntry entry;
    entry.tenant = s->tenant;
    entry.priority = s->request.priority;
    entry.arrival = s->arrival;
    entry.deadline = s->due;
    entry.preempted = s->preemptions > 0;
    entry.times_passed = s->times_passed;
    num_preempted_ += entry.preempted ? 1 : 0;
    const auto index = static_cast<size_t>(queue_.Add(entry));
    if (index >= sequences_.size()) {
      sequences_.resize(index + 1);
      looks_.resize(index + 1);
    }
    looks_[index] = {s->request.stream.get(), entry.deadline, entry.preempted};
    sequences_[index] = std::move(s);
  }

  // One round per step; within it only Next.
  void BeginRound() { queue_.BeginRound(); }
  void EndRound() { queue_.EndRound(); }
  // The next to join, nullptr when none does. need: AdmissionNeed(Sequence*).
  template <typename Need>
  std::unique_ptr<Sequence> Next(int32_t free_pages, const Need& need) {
    const std::optional<WaitingId> id =
        queue_.Next(free_pages, [&](WaitingId w) { return need(sequences_[static_cast<size_t>(w)].get()); });
    if (!id.has_value()) return nullptr;
    std::unique_ptr<Sequence> s = Take(static_cast<size_t>(*id));
    s->times_passed = queue_.times_passed(*id);
    return s;
  }

  // Drops those for which `judge` has a verdict, in no particular order, and then calls end(sequence, verdict); not
  // within a round. Those are judged that are cancelled or due or ran before. Returns when the next of the others is
  // due.
  template <typename Judge, typename End>
  absl::Time EndIf(absl::Time now, const Judge& judge, const End& end) {
    absl::Time next_due = absl::InfiniteFuture();
    for (size_t i = 0; i < looks_.size(); ++i) {
      const Look& look = looks_[i];
      if (look.stream == nullptr) continue;
      if (look.stream->cancelled() || now >= look.due || look.preempted) {
        if (auto verdict = judge(sequences_[i].get()); verdict.has_value()) {
          queue_.Remove(static_cast<WaitingId>(i));
          end(Take(i).get(), *std::move(verdict));
          continue;
        }
      }
      next_due = std::min(next_due, look.due);
    }
    return next_due;
  }
  // Drops all, after a call of `end` for each.
  template <typename End>
  void Clear(const End& end) {
    for (size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i] == nullptr) continue;
      queue_.Remove(static_cast<WaitingId>(i));
      end(Take(i).get());
    }
  }

  bool empty() const { return queue_.size() == 0; }
  int32_t size() const { return queue_.size(); }
  int32_t num_preempted() const { return num_preempted_; }

  // "" or what is wrong.
  std::string CheckInvariants() const {
    if (std::string e = queue_.CheckInvariants(); !e.empty()) return e;
    int32_t waiting = 0, preempted = 0;
    for (const auto& s : sequences_) {
      if (s == nullptr) continue;
      ++waiting;
      preempted += s->preemptions > 0 ? 1 : 0;
      if (s->kv.has_value() || s->outstanding_pages != 0) return "waiting: a sequence that holds or is promised pages";
    }
    return waiting == queue_.size() && preempted == num_preempted_ ? "" : "waiting: the queue and its sequences differ";
  }

 private:
  // What every step asks of a waiting sequence, without touching the rest of it.
  struct Look {
    const TokenStream* stream = nullptr;  // nullptr where none waits
    absl::Time due;
    bool preempted = false;
  };

  std::unique_ptr<Sequence> Take(size_t index) {
    num_preempted_ -= looks_[index].preempted ? 1 : 0;
    looks_[index] = Look();
    return std::move(sequences_[index]);
  }

  AdmissionQueue queue_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // by WaitingId; nullptr where none waits
  std::vector<Look> looks_;                           // of sequences_
  int32_t num_preempted_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_ENGINE_WAITING_SEQUENCES_H_
