// All the scheduler's classes around a toy device on a virtual clock: what an engine does with them, without tokens,
// caches or streams. Pages are counted, nothing is shared. Every invariant is checked in every step.
#ifndef DUNLIN_TESTS_WORKER_SCHEDULER_SIMULATED_ENGINE_H_
#define DUNLIN_TESTS_WORKER_SCHEDULER_SIMULATED_ENGINE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/scheduler/admission_queue.h"
#include "worker/scheduler/output_predictor.h"
#include "worker/scheduler/reservation.h"
#include "worker/scheduler/row_planner.h"
#include "worker/scheduler/scheduler_checks.h"
#include "worker/scheduler/step_time_model.h"

namespace dunlin::worker {

struct SimRequest {
  absl::Time arrival;
  int32_t prompt = 1, output = 1, max_output = 1;
  std::string tenant;
  int32_t priority = 0;
};

// What became of a request.
struct SimResult {
  absl::Time first_token = absl::InfiniteFuture(), end = absl::InfiniteFuture();
  int32_t preemptions = 0;
  uint64_t longest_wait = 0;   // steps between two advances of its prompt
  absl::Duration longest_gap;  // between two tokens
};

struct SimOptions {
  int32_t num_pages = 10000;
  int max_running = 64;
  RowLimits rows;
  bool promise_nothing = false;  // beyond the tokens so far, to those that are not protected: everybody outgrows it
  absl::Duration target = absl::InfiniteDuration();
  double a = 2e-3, b = 1e-4, c = 1e-8;  // of the device, in seconds
};

class SimulatedEngine {
 public:
  SimulatedEngine(const SimOptions& options, std::vector<SimRequest> requests)
      : options_(options), requests_(std::move(requests)), results_(requests_.size()), planner_(options.rows) {
    std::stable_sort(requests_.begin(), requests_.end(),
                     [](const SimRequest& x, const SimRequest& y) { return x.arrival < y.arrival; });
  }

  // Until everything has ended, or for `most` steps.
  void Run(uint64_t most = 1000000) {
    while (step_ < most && (next_arrival_ < requests_.size() || queue_.size() > 0 || !running_.empty())) {
      Step();
      if (testing::Test::HasFatalFailure()) return;
    }
  }

  const std::vector<SimResult>& results() const { return results_; }
  bool all_ended() const { return num_ended_ == requests_.size(); }
  uint64_t steps() const { return step_; }
  uint64_t preemptions() const { return preemptions_; }
  uint64_t peak_running() const { return peak_running_; }
  double counted_spread() const { return widest_spread_; }
  // Everything that was decided, for comparing two runs.
  const std::vector<int32_t>& trace() const { return trace_; }

 private:
  struct Sequence {
    size_t request;
    TenantId tenant;
    int32_t generated = 0, preemptions = 0;
    int32_t computed = 0, held = 0, reserved = 0;
    uint64_t admitted_step = 0, last_advanced = 0;
    absl::Time last_token;
  };

  const SimRequest& Of(const Sequence& s) const { return requests_[s.request]; }
  int32_t Known(const Sequence& s) const { return Of(s).prompt + s.generated; }
  bool Decodes(const Sequence& s) const { return s.generated > 0 && Known(s) - s.computed == 1; }
  int32_t PagesFor(int32_t tokens) const {
    return (tokens + options_.rows.page_tokens - 1) / options_.rows.page_tokens;
  }
  int32_t Promised(const Sequence& s) const {
    const SimRequest& r = Of(s);
    if (options_.promise_nothing && s.preemptions < kMaxPreemptions) return PagesFor(Known(s));
    return ReservePages({r.prompt, s.generated, r.max_output, s.preemptions}, predictor_, options_.rows.page_tokens);
  }
  int32_t Unpromised() const {
    int32_t free = options_.num_pages;
    for (const auto& s : running_) free -= s->reserved;
    return free;
  }

  void Wait(std::unique_ptr<Sequence> s) {
    WaitingEntry entry;
    entry.tenant = s->tenant;
    entry.priority = Of(*s).priority;
    entry.arrival = Of(*s).arrival;
    entry.preempted = s->preemptions > 0;
    const auto id = static_cast<size_t>(queue_.Add(entry));
    if (waiting_.size() <= id) waiting_.resize(id + 1);
    waiting_[id] = std::move(s);
  }

  void Admit() {
    queue_.BeginRound();
    while (static_cast<int>(running_.size()) < options_.max_running) {
      const std::optional<WaitingId> id = queue_.Next(Unpromised(), [this](WaitingId w) {
        return AdmissionNeed{Promised(*waiting_[static_cast<size_t>(w)]), 0};
      });
      if (!id.has_value()) break;
      std::unique_ptr<Sequence> s = std::move(waiting_[static_cast<size_t>(*id)]);
      s->reserved = Promised(*s);
      s->admitted_step = s->last_advanced = step_;
      if (s->preemptions == 0) counters_.ChargeInput(s->tenant, Of(*s).prompt, 0);
      trace_.push_back(-1 - static_cast<int32_t>(s->request));
      running_.push_back(std::move(s));
    }
    queue_.EndRound();
  }

  // Pages for the rows of running_[i]; somebody gives way if it has outgrown its promise and there are no others.
  void Reserve(size_t i) {
    while (running_[i] != nullptr && rows_[i] > 0) {
      Sequence& s = *running_[i];
      const int32_t pages = PagesFor(s.computed + rows_[i]);
      int32_t free = options_.num_pages;
      for (const auto& other : running_) free -= other == nullptr ? 0 : other->reserved;
      if (pages > s.reserved) {
        ASSERT_LT(s.preemptions, kMaxPreemptions) << "a protected one outgrew its worst case";
      }
      if (pages - s.reserved <= free) {
        s.reserved = std::max(s.reserved, pages);
        s.held = std::max(s.held, pages);
        return;
      }
      Preempt(i);
    }
  }

  void Preempt(size_t asking) {
    std::vector<VictimView> views;
    std::vector<size_t> index;
    int32_t asking_view = -1;
    for (size_t i = 0; i < running_.size(); ++i) {
      if (running_[i] == nullptr) continue;
      const Sequence& s = *running_[i];
      if (i == asking) asking_view = static_cast<int32_t>(views.size());
      views.push_back({Of(s).priority, s.request, s.preemptions, s.computed, s.reserved, false});
      index.push_back(i);
    }
    const int32_t chosen = ChooseVictim(views, asking_view);
    ASSERT_GE(chosen, 0);
    const size_t victim = index[static_cast<size_t>(chosen)];
    Sequence& v = *running_[victim];
    trace_.push_back(1000000 + static_cast<int32_t>(v.request));
    ++v.preemptions;
    ++results_[v.request].preemptions;
    ++preemptions_;
    predictor_.OnPreemption();
    v.computed = v.held = v.reserved = 0;
    rows_[victim] = 0;
    victims_.push_back(std::move(running_[victim]));
  }

  void Step() {
    ++step_;
    for (; next_arrival_ < requests_.size() && requests_[next_arrival_].arrival <= now_; ++next_arrival_) {
      auto s = std::make_unique<Sequence>();
      s->request = next_arrival_;
      s->tenant = counters_.Acquire(requests_[next_arrival_].tenant);
      Wait(std::move(s));
    }
    Admit();
    views_.clear();
    for (const auto& s : running_) {
      RowView v;
      v.remaining = Known(*s) - s->computed;
      v.computed = s->computed;
      v.admitted_step = s->admitted_step;
      v.last_advanced = s->last_advanced;
      v.decoding = Decodes(*s);
      views_.push_back(v);
    }
    planner_.Plan(views_, step_, RowPlanner::TimeLimit(views_, model_, options_.target), &rows_);
    ASSERT_EQ(CheckBudget(views_, rows_, options_.rows), "") << "step " << step_;
    trace_.insert(trace_.end(), rows_.begin(), rows_.end());
    for (size_t i = 0; i < running_.size(); ++i) Reserve(i);
    Compute();
    Check();
  }

  void Compute() {
    int32_t tokens = 0;
    int64_t context = 0;
    for (size_t i = 0; i < running_.size(); ++i) {
      if (running_[i] == nullptr) continue;
      tokens += rows_[i];
      context += int64_t{rows_[i]} * running_[i]->computed + int64_t{rows_[i]} * rows_[i] / 2;
    }
    if (tokens == 0) {  // idle until the next arrival; a step that preempted everybody costs nothing
      if (running_.empty() && queue_.size() == 0) now_ = std::max(now_, requests_[next_arrival_].arrival);
    } else {
      const absl::Duration took =
          absl::Seconds(options_.a + options_.b * tokens + options_.c * static_cast<double>(context));
      now_ += took;
      model_.Observe(tokens, context, took);
      predictor_.OnStep();
    }
    for (size_t i = 0; i < running_.size(); ++i) {
      if (running_[i] != nullptr && rows_[i] > 0) Absorb(i);
    }
    std::erase(running_, nullptr);
    for (auto& v : victims_) Wait(std::move(v));
    victims_.clear();
    peak_running_ = std::max<uint64_t>(peak_running_, running_.size());
  }

  void Absorb(size_t i) {
    Sequence& s = *running_[i];
    SimResult& result = results_[s.request];
    if (!views_[i].decoding) result.longest_wait = std::max(result.longest_wait, step_ - s.last_advanced);
    s.last_advanced = step_;
    s.computed += rows_[i];
    if (s.computed < Known(s)) return;
    if (s.generated++ == 0) {
      result.first_token = now_;
    } else {
      result.longest_gap = std::max(result.longest_gap, now_ - s.last_token);
    }
    s.last_token = now_;
    counters_.ChargeOutput(s.tenant, 1);
    if (s.generated < Of(s).output) return;
    result.end = now_;
    ++num_ended_;
    predictor_.Observe(s.generated, Of(s).max_output);
    counters_.Release(s.tenant);
    running_[i] = nullptr;
  }

  void Check() {
    std::vector<int32_t> reserved, held;
    std::vector<RowView> views;
    int32_t available = options_.num_pages;
    for (const auto& s : running_) {
      reserved.push_back(s->reserved);
      held.push_back(s->held);
      available -= s->held;
      RowView v;
      v.last_advanced = s->last_advanced;
      v.decoding = Decodes(*s);
      views.push_back(v);
    }
    ASSERT_EQ(CheckPromises(reserved, held, available), "") << "step " << step_;
    ASSERT_EQ(CheckProgress(views, step_, options_.rows), "") << "step " << step_;
    ASSERT_EQ(queue_.CheckInvariants(), "") << "step " << step_;
    ASSERT_EQ(counters_.CheckInvariants(), "") << "step " << step_;
    widest_spread_ = std::max(widest_spread_, counters_.spread());
  }

  const SimOptions options_;
  std::vector<SimRequest> requests_;
  std::vector<SimResult> results_;
  TenantCounters counters_;
  AdmissionQueue queue_{AdmissionLimits(), &counters_};
  OutputPredictor predictor_;
  StepTimeModel model_;
  RowPlanner planner_;
  std::vector<std::unique_ptr<Sequence>> waiting_, running_, victims_;
  std::vector<RowView> views_;
  std::vector<int32_t> rows_, trace_;
  absl::Time now_ = absl::UnixEpoch();
  size_t next_arrival_ = 0, num_ended_ = 0;
  uint64_t step_ = 0, preemptions_ = 0, peak_running_ = 0;
  double widest_spread_ = 0;
};

}  // namespace dunlin::worker

#endif  // DUNLIN_TESTS_WORKER_SCHEDULER_SIMULATED_ENGINE_H_
