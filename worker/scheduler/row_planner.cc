#include "worker/scheduler/row_planner.h"

#include <algorithm>
#include <cstddef>

#include "base/check.h"

namespace dunlin::worker {
namespace {

bool Ready(const RowView& s) { return !s.paused && !s.blocked; }

// How much more of `share` the sequence takes beyond `given`: what is left of its prompt, or as many whole pages as
// fit.
int32_t Chunk(const RowView& s, int32_t given, int32_t share, int32_t page_tokens) {
  const int32_t left = s.remaining - given;
  if (share >= left) return left;
  return std::max(0, share - (s.computed + given + share) % page_tokens);
}

// One more for every 32 steps since it joined, up to four: the turns of those that have been at it for long are longer.
int32_t Weight(const RowView& s, uint64_t step) {
  return 1 + static_cast<int32_t>(std::min<uint64_t>(3, (step - s.admitted_step) / 32));
}

}  // namespace

RowPlanner::RowPlanner(const RowLimits& limits) : limits_(limits) {
  CHECK_GE(limits.max_rows, 1);
  CHECK_GE(limits.page_tokens, 1);
  CHECK_GE(limits.partial_prefills, 1);
}

int32_t RowPlanner::TimeLimit(std::span<const RowView> running, const StepTimeModel& model, absl::Duration target) {
  if (!model.ready() || target == absl::InfiniteDuration()) return StepTimeModel::kUnlimited;
  int64_t context = 0, prompt_context = 0;
  int32_t decodes = 0, prompts = 0;
  for (const RowView& s : running) {
    if (!Ready(s)) continue;
    (s.decoding ? context : prompt_context) += s.computed;
    ++(s.decoding ? decodes : prompts);
  }
  if (decodes == 0) return StepTimeModel::kUnlimited;
  const int64_t per_token = prompts == 0 ? 0 : prompt_context / prompts;
  return model.MaxTokens(target, context - decodes * per_token, per_token);
}

// How many prompts, the first in by_turn_, must advance in this step, so that with r = ceil(prompts / 2P) in each later
// step every one advances within 2P steps of its last time.
int32_t RowPlanner::NumDue(std::span<const RowView> running, uint64_t step) const {
  const auto n = static_cast<int64_t>(by_turn_.size());
  const int64_t cycle = 2 * limits_.partial_prefills;
  const int64_t rate = (n + cycle - 1) / cycle;
  int64_t due = 0;
  for (int64_t j = 0; j < n; ++j) {
    const RowView& s = running[static_cast<size_t>(by_turn_[static_cast<size_t>(j)])];
    const int64_t since = static_cast<int64_t>(step) - static_cast<int64_t>(s.last_advanced);
    const int64_t later_steps = std::max<int64_t>(0, cycle - since);
    due = std::max(due, j + 1 - later_steps * rate);
  }
  return static_cast<int32_t>(due);
}

void RowPlanner::GiveShortest(std::span<const RowView> running, int32_t* share, std::vector<int32_t>* rows) const {
  for (const int32_t i : by_length_) {
    const RowView& s = running[static_cast<size_t>(i)];
    const int32_t more = Chunk(s, 0, *share, limits_.page_tokens);
    (*rows)[static_cast<size_t>(i)] = more;
    *share -= more;
    if (more < s.remaining) return;
  }
}

// Turns of `turns` prompts without rows, by_turn_ order; the first `due` of them get something in any case.
void RowPlanner::GiveTurns(std::span<const RowView> running, uint64_t step, int32_t turns, int32_t due, int32_t* share,
                           std::vector<int32_t>* rows) {
  chosen_.clear();
  int32_t weights = 0;
  for (int32_t j = 0; j < static_cast<int32_t>(by_turn_.size()) && static_cast<int32_t>(chosen_.size()) < turns; ++j) {
    const int32_t i = by_turn_[static_cast<size_t>(j)];
    if ((*rows)[static_cast<size_t>(i)] > 0) {
      if (j < due) --turns, --due;
      continue;
    }
    chosen_.push_back(i);
    weights += Weight(running[static_cast<size_t>(i)], step);
  }
  for (const int32_t i : chosen_) {
    const RowView& s = running[static_cast<size_t>(i)];
    const int32_t weight = Weight(s, step);
    const int32_t spare = *share - std::max(0, due - 1);  // one token stays for each that is due after it
    if (spare <= 0) return;
    const int32_t fair = std::clamp(static_cast<int32_t>(int64_t{*share} * weight / weights), 1, spare);
    int32_t more = Chunk(s, 0, fair, limits_.page_tokens);
    if (more == 0) {
      const int32_t least = std::min(s.remaining, limits_.page_tokens - s.computed % limits_.page_tokens);
      more = least <= spare ? least : due > 0 ? fair : 0;
    }
    (*rows)[static_cast<size_t>(i)] = more;
    *share -= more;
    weights -= weight;
    --due;
  }
}

void RowPlanner::Plan(std::span<const RowView> running, uint64_t step, int32_t time_limit, std::vector<int32_t>* rows) {
  CHECK_LE(running.size(), static_cast<size_t>(limits_.max_rows));
  rows->assign(running.size(), 0);
  by_turn_.clear();
  int32_t room = limits_.max_rows;
  for (size_t i = 0; i < running.size(); ++i) {
    const RowView& s = running[i];
    CHECK_GE(s.remaining, 1);
    if (!Ready(s)) continue;
    if (!s.decoding) {
      by_turn_.push_back(static_cast<int32_t>(i));
      continue;
    }
    CHECK_EQ(s.remaining, 1);
    (*rows)[i] = 1;
    --room;
  }
  if (by_turn_.empty()) return;
  by_length_ = by_turn_;
  const auto at = [&](int32_t i) -> const RowView& { return running[static_cast<size_t>(i)]; };
  std::sort(by_turn_.begin(), by_turn_.end(), [&](int32_t a, int32_t b) {
    return at(a).last_advanced != at(b).last_advanced ? at(a).last_advanced < at(b).last_advanced : a < b;
  });
  std::sort(by_length_.begin(), by_length_.end(), [&](int32_t a, int32_t b) {
    return at(a).remaining != at(b).remaining ? at(a).remaining < at(b).remaining : a < b;
  });

  const int32_t decodes = limits_.max_rows - room;
  const int32_t due = NumDue(running, step);
  const int32_t least = std::min(room, std::max(limits_.page_tokens, due));
  const int32_t budget = std::clamp(time_limit - decodes, least, room);
  // For turns: half of the step, a page for each that is due, nothing when the step is a single page and nobody is due.
  const int32_t half = budget >= 2 * limits_.page_tokens ? budget / 2 : 0;
  int32_t turns_share =
      static_cast<int32_t>(std::min<int64_t>(budget, std::max<int64_t>(half, int64_t{due} * limits_.page_tokens)));
  int32_t shortest_share = budget - turns_share;
  GiveShortest(running, &shortest_share, rows);
  turns_share += shortest_share;
  const int32_t turns = std::max(due, std::min(limits_.partial_prefills - 1, turns_share / limits_.page_tokens));
  GiveTurns(running, step, turns, due, &turns_share, rows);
  GiveRest(running, turns_share, rows);
}

// First to lengthen the chunks that there are, then to others. A step smaller than a page goes to the shortest.
void RowPlanner::GiveRest(std::span<const RowView> running, int32_t share, std::vector<int32_t>* rows) const {
  bool any = false;
  for (const bool started : {true, false}) {
    for (const int32_t i : by_length_) {
      if (share == 0) return;
      int32_t& given = (*rows)[static_cast<size_t>(i)];
      if ((given > 0) != started) continue;
      const int32_t more = Chunk(running[static_cast<size_t>(i)], given, share, limits_.page_tokens);
      given += more;
      share -= more;
      any = any || given > 0;
    }
  }
  if (any) return;
  const auto shortest = static_cast<size_t>(by_length_.front());
  (*rows)[shortest] = std::min(share, running[shortest].remaining);
}

}  // namespace dunlin::worker
