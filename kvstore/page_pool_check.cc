// What a PagePool says about itself: its invariants and its bytes.
#include <array>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "kvstore/page_pool.h"
#include "kvstore/snapshot.h"

namespace dunlin::kv {

std::string PagePool::CheckList(const char* name, const LinkedList<Meta>& list, PageState state) const {
  int32_t n = 0, prev = -1;
  for (int32_t p = list.head; p >= 0; p = meta_[static_cast<size_t>(p)].next) {
    const Meta& m = meta_[static_cast<size_t>(p)];
    if (m.state != static_cast<uint32_t>(state)) {
      return absl::StrCat("conservation: queue ", name, ": page ", p, " has state ", m.state);
    }
    if (m.prev != prev) {
      return absl::StrCat("conservation: queue ", name, ": page ", p, " names ", m.prev, " before it, not ", prev);
    }
    if (state == PageState::kCached && &cached_.list(m.rank, m.level) != &list) {
      return absl::StrCat("conservation: page ", p, " of rank ", m.rank, " and level ", m.level, " is in another list");
    }
    prev = p;
    if (++n > list.size) return absl::StrCat("conservation: queue ", name, " is longer than ", list.size);
  }
  if (n != list.size || list.tail != prev) {
    return absl::StrCat("conservation: queue ", name, ": ", n, " pages ending in ", prev, ", but size ", list.size,
                        " and tail ", list.tail);
  }
  return "";
}

std::string PagePool::CheckInvariants() const {
  std::array<int32_t, 4> in_state{};
  int32_t waiting = 0, pinned = 0;
  for (size_t i = 0; i < meta_.size(); ++i) {
    const Meta& m = meta_[i];
    ++in_state[m.state];
    waiting += WaitsForPins(m) ? 1 : 0;
    pinned += Pins(m) > 0 ? 1 : 0;
    if (Held(m) && (m.refs < 1 || m.pins < 0 || m.pins > m.refs)) {
      return absl::StrCat("references: page ", i, " has ", m.refs, " references, ", m.pins, " of them pins, in state ",
                          m.state);
    }
  }
  if (waiting != waiting_for_pins_ || pinned != pinned_) {
    return absl::StrCat("references: ", pinned, " pages pinned, ", waiting, " by nothing else; counted ", pinned_,
                        " and ", waiting_for_pins_);
  }
  int32_t blank = 0;
  for (int32_t p = blank_top_; p >= 0 && blank <= blank_size_; p = meta_[static_cast<size_t>(p)].next, ++blank) {
    if (meta_[static_cast<size_t>(p)].state != static_cast<uint32_t>(PageState::kBlank)) {
      return absl::StrCat("conservation: page ", p, " at ", blank, " of the blank stack is not blank");
    }
  }
  if (blank != blank_size_) return absl::StrCat("conservation: the blank stack has not ", blank_size_, " pages");
  const KvStats s = stats();
  const std::array<int32_t, 4> counted{s.blank, s.held, s.cached, s.quarantine};
  for (size_t i = 0; i < in_state.size(); ++i) {
    if (in_state[i] != counted[i]) {
      return absl::StrCat("conservation: ", in_state[i], " pages in state ", i, ", structures list ", counted[i]);
    }
  }
  if (!cached_.BitsAgree()) return "conservation: the eviction queue's bits do not tell which lists have pages";
  for (size_t r = 0; r < EvictionQueue<Meta>::kNumRanks; ++r) {
    for (size_t level = 0; level < EvictionQueue<Meta>::kNumLevels; ++level) {
      const LinkedList<Meta>& list = cached_.list(r, level);
      if (list.size == 0) continue;
      if (std::string e = CheckList("cached", list, PageState::kCached); !e.empty()) return e;
    }
  }
  if (cached_.Order(meta_.data()).size() != static_cast<size_t>(cached_.size())) {
    return absl::StrCat("conservation: the eviction queue has not ", cached_.size(), " pages");
  }
  return CheckList("quarantine", quarantine_, PageState::kQuarantine);
}

void PagePool::AppendSnapshot(std::string* out) const {
  for (const Meta& m : meta_) {
    for (const int64_t v :
         std::initializer_list<int64_t>{m.prev, m.next, m.node, m.generation, m.state, m.fate, m.rank, m.level}) {
      AppendValue(v, out);
    }
  }
  for (const int32_t page : EvictionOrder()) AppendValue(page, out);
  for (const uint64_t v : {static_cast<uint64_t>(blank_top_), static_cast<uint64_t>(blank_size_), cached_.clock(),
                           static_cast<uint64_t>(quarantine_.head), static_cast<uint64_t>(quarantine_.tail),
                           static_cast<uint64_t>(waiting_for_pins_), static_cast<uint64_t>(pinned_), evictions_}) {
    AppendValue(v, out);
  }
}

}  // namespace dunlin::kv
