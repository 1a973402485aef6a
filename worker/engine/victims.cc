#include "worker/engine/victims.h"

#include <algorithm>

namespace dunlin::worker {

int32_t Victims::Choose(std::span<const std::unique_ptr<Sequence>> running, size_t asking, const SequencePages& pages) {
  views_.clear();
  index_.clear();
  const auto add_uses = [&](int32_t by) {
    for (const auto& s : running) {
      if (s == nullptr) continue;
      for (const int32_t page : pages.TableOf(*s)) page_uses_[static_cast<size_t>(page)] += by;
    }
  };
  add_uses(1);
  int32_t asking_view = -1;
  for (size_t i = 0; i < running.size(); ++i) {
    if (running[i] == nullptr) continue;
    const Sequence& s = *running[i];
    const std::span<const int32_t> table = pages.TableOf(s);
    const auto own = static_cast<int32_t>(std::count_if(
        table.begin(), table.end(), [this](int32_t page) { return page_uses_[static_cast<size_t>(page)] == 1; }));
    VictimView v;
    v.priority = s.request.priority;
    v.age_rank = s.number;
    v.preemptions = s.preemptions;
    v.recompute_tokens = std::min(own * pages.page_tokens(), s.num_computed);
    v.freed_pages = own + s.outstanding_pages;
    v.paused = s.paused;
    if (i == asking) asking_view = static_cast<int32_t>(views_.size());
    views_.push_back(v);
    index_.push_back(static_cast<int32_t>(i));
  }
  add_uses(-1);
  const int32_t chosen = ChooseVictim(views_, asking_view);
  return chosen < 0 ? -1 : index_[static_cast<size_t>(chosen)];
}

}  // namespace dunlin::worker
