// What an EngineCore says about itself between steps.
#include "absl/strings/str_cat.h"
#include "worker/engine/engine_core.h"
#include "worker/scheduler/scheduler_checks.h"

namespace dunlin::worker {
namespace {

// A paused sequence is looked at this often while nothing else runs: reading the stream does not wake the engine.
constexpr absl::Duration kPausedPoll = absl::Milliseconds(10);

}  // namespace

absl::Time EngineCore::NextWake() const {
  // Whoever runs is paused, and who waits waits for them; deadlines are seen at the same rate.
  return idle() ? absl::InfiniteFuture() : clock_->Now() + kPausedPoll;
}

EngineStats EngineCore::stats() const {
  EngineStats s = stats_;
  s.running = static_cast<int32_t>(running_.size());
  s.waiting = waiting_.size();
  s.waiting_preempted = waiting_.num_preempted();
  s.decode_tokens_per_second = decode_rate_.tokens_per_second();
  s.vtc_spread_tokens = tenants_.spread();
  pages_.FillStats(&s);
  return s;
}

std::string EngineCore::CheckInvariants() const {
  for (const auto& s : running_) {
    if (s == nullptr || !s->kv.has_value()) return "running: a sequence that ended";
    const int32_t limit = s->limit_tokens + (s->generates ? 0 : 1);
    const bool finishing = s->finishing();
    if (s->num_computed > s->num_planned() || (s->remaining_tokens() < 1 && !finishing) || s->num_tokens() >= limit ||
        s->num_planned() > s->limit_tokens) {
      return absl::StrCat("progress: ", s->num_computed, " of ", s->num_tokens(), " tokens and ", s->unknown_tokens,
                          " in flight, limit ", s->limit_tokens);
    }
  }
  if (std::string e = in_flight_.CheckInvariants(running_); !e.empty()) return e;
  if (std::string e = pages_.CheckInvariants(running_); !e.empty()) return e;
  if (std::string e = waiting_.CheckInvariants(); !e.empty()) return e;
  if (std::string e = tenants_.CheckInvariants(); !e.empty()) return e;
  // Of the last plan, as it was made: what came of it may be less, when somebody was preempted or waits for pins.
  if (std::string e = CheckBudget(views_, plan_, planner_.limits()); !e.empty()) return e;
  std::vector<RowView> running;
  for (const auto& s : running_) running.push_back(s->row_view());
  return CheckProgress(running, next_step(), planner_.limits());
}

std::string EngineCore::CheckIdle() const {
  if (!idle()) return absl::StrCat("idle: ", running_.size(), " run, ", waiting_.size(), " wait");
  return pages_.CheckIdle();
}

}  // namespace dunlin::worker
