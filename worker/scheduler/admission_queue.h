// The waiting sequences and the order in which they join. Thread-safety: none needed (engine thread).  Owns: their
// order. Borrows: the tenants' counters.  Cost: Add and Remove O(log waiting); a round O(lookahead * log), whatever
// waits.
//
// Order: higher priority first; within a priority those that were preempted, by arrival; then the tenant with the
// lowest counter, and of one tenant's the one with the earliest key = min(deadline, arrival + patience): an earlier
// deadline goes first, and nobody is overtaken by what arrives more than `patience` after it. Equal in that order count
// the first `prefix_window` of a tenant: of them the one with most cached tokens goes first, but none is overtaken so
// more than `max_prefix_passed` times. A sequence that does not fit may be passed by later ones `max_passed` times and
// then by none: the pages that come free gather for it. One that was preempted is never passed, so that the pages it
// gave up are not lent on before it is back.
//
// A round, once per step:
//   queue.BeginRound();
//   while (room for one more) {
//     std::optional<WaitingId> id = queue.Next(unpromised pages, need);
//     if (!id) break;
//     ... open it: match its prefix, promise its pages, counters.ChargeInput ...
//   }
//   queue.EndRound();
// Next removes what it returns; Add and Remove are for between rounds. A round asks for the need of at most `lookahead`
// sequences, of each once.
#ifndef DUNLIN_WORKER_SCHEDULER_ADMISSION_QUEUE_H_
#define DUNLIN_WORKER_SCHEDULER_ADMISSION_QUEUE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "worker/scheduler/tenant_counters.h"

namespace dunlin::worker {

enum class WaitingId : int32_t {};  // dense from 0; reused after Next or Remove

struct AdmissionLimits {
  int lookahead = 8;          // sequences that a round considers at most
  int max_passed = 64;        // times one that does not fit may be passed
  int prefix_window = 4;      // of one tenant, among which the longest cached prefix goes first; 1 = off
  int max_prefix_passed = 4;  // times one may be passed for that
  absl::Duration patience = absl::Seconds(30);
};

struct WaitingEntry {
  TenantId tenant = TenantId{0};
  int32_t priority = 0;  // higher first
  absl::Time arrival;
  absl::Time deadline = absl::InfiniteFuture();
  bool preempted = false;  // it has run before
  // So far: not 0 for one that Next returned and that could not join after all (times_passed(id) tells until the next
  // Add); so it keeps its claim not to be passed for ever.
  int32_t times_passed = 0;
};

// What a sequence needs to join.
struct AdmissionNeed {
  int32_t pages = 0;          // its reservation less the pages it would share that other running sequences hold now
  int32_t cached_tokens = 0;  // of its prefix, in the cache
};

class AdmissionQueue {
 public:
  AdmissionQueue(const AdmissionLimits& limits, TenantCounters* counters);
  ~AdmissionQueue();

  WaitingId Add(const WaitingEntry& entry);
  void Remove(WaitingId id);
  int32_t size() const { return size_; }

  void BeginRound();
  // free_pages: available and promised to nobody; they only become fewer within a round.
  std::optional<WaitingId> Next(int32_t free_pages, absl::FunctionRef<AdmissionNeed(WaitingId)> need);
  void EndRound();

  int32_t times_passed(WaitingId id) const;
  // "" or what is wrong.
  std::string CheckInvariants() const;

 private:
  struct Lane;
  struct Class;
  struct Slot {
    WaitingEntry entry;
    uint64_t number = 0;  // of its Add
    int32_t look = -1;    // in looks_, within a round
    bool open = false;
  };
  // Place in a lane or among the preempted: by key, then number.
  struct Place {
    absl::Time key;
    uint64_t number;
    int32_t slot;
    bool operator<(const Place& o) const { return key != o.key ? key < o.key : number < o.number; }
  };
  // What this round knows of a sequence it has looked at.
  struct Look {
    int32_t slot;
    AdmissionNeed need;
    int32_t considered = 0;  // when it could have joined, counted within the round; 0 = it has not come to that
    bool skipped = false;
    bool taken = false;
  };
  using NeedOf = absl::FunctionRef<AdmissionNeed(WaitingId)>;

  Slot& At(int32_t slot) { return slots_[static_cast<size_t>(slot)]; }
  Place PlaceOf(int32_t slot) const;
  void Unlink(int32_t slot);
  void DropIfEmpty(int32_t priority);
  Lane* FirstLane(Class* c);
  void SetBack(Lane* lane, int32_t set_back);
  // nullptr when the round has looked at as many as it may, or ahead at as many.
  Look* Consider(int32_t slot, NeedOf need);
  Look* LookAhead(int32_t slot, NeedOf need);
  Look* LookAt(int32_t slot, NeedOf need);
  bool FirstOf(Lane* lane, NeedOf need, Look** first);
  Look* LongestPrefix(Lane* lane, Look* first, int32_t free_pages, NeedOf need);
  WaitingId Take(Look* look);

  const AdmissionLimits limits_;
  TenantCounters* const counters_;
  std::vector<Slot> slots_;
  std::vector<int32_t> unused_;
  std::map<int32_t, std::unique_ptr<Class>, std::greater<>> classes_;  // by priority
  int32_t size_ = 0;
  uint64_t num_added_ = 0, num_turns_ = 0;

  // The round.
  bool in_round_ = false, closed_ = false;
  int32_t num_considered_ = 0, num_ahead_ = 0;
  int32_t events_ = 0, last_taken_ = 0;
  std::vector<Look> looks_;
  std::vector<Lane*> set_back_;  // lanes with something skipped
};

}  // namespace dunlin::worker

#endif  // DUNLIN_WORKER_SCHEDULER_ADMISSION_QUEUE_H_
