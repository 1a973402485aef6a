#include "kvstore/invariants.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace dunlin::kv {
namespace {

PageId Page(size_t p) { return static_cast<PageId>(p); }

}  // namespace

std::string CheckConservation(const StoreView& v) {
  if (std::string e = v.pool.CheckInvariants(); !e.empty()) return e;
  size_t open = 0;
  for (const OpenSequence& s : v.sequences) open += s.open ? 1 : 0;
  if (open + v.free_sequences.size() != v.sequences.size()) {
    return absl::StrCat("conservation: ", open, " sequences open and ", v.free_sequences.size(), " free of ",
                        v.sequences.size());
  }
  return "";
}

std::string CheckReferences(const StoreView& v) {
  const auto pages = static_cast<size_t>(v.pool.num_pages());
  std::vector<int32_t> refs(pages, 0);
  std::vector<size_t> last_table(pages, v.sequences.size());
  for (size_t s = 0; s < v.sequences.size(); ++s) {
    const PageTable& table = v.sequences[s].table;
    if (!v.sequences[s].open && table.size() != 0) {
      return absl::StrCat("references: closed sequence ", s, " has ", table.size(), " pages");
    }
    for (const int32_t page : table.ids()) {
      const auto p = static_cast<size_t>(page);
      if (p >= pages) return absl::StrCat("references: sequence ", s, " names page ", page);
      if (last_table[p] == s) return absl::StrCat("references: sequence ", s, " names page ", page, " twice");
      last_table[p] = s;
      ++refs[p];
    }
  }
  for (size_t p = 0; p < pages; ++p) {
    const int32_t pins = v.pool.pins(Page(p)), counted = v.pool.ref_count(Page(p));
    if (refs[p] + pins != counted) {
      return absl::StrCat("references: page ", p, " is in ", refs[p], " tables and has ", pins, " pins, counted ",
                          counted);
    }
  }
  return "";
}

std::string CheckWriteSets(const StoreView& v) {
  for (size_t i = 0; i < v.sequences.size(); ++i) {
    const OpenSequence& s = v.sequences[i];
    if (!s.writes_in(v.step)) continue;
    if (s.write_last > s.table.size()) {
      return absl::StrCat("write sets: sequence ", i, " writes ", s.write_last, " pages of ", s.table.size());
    }
    for (int32_t p = s.write_first; p < s.write_last; ++p) {
      const PageId page = s.table.page(p);
      const int32_t tables = v.pool.ref_count(page) - v.pool.pins(page);
      if (tables != 1 || v.pool.node(page) >= 0) {
        return absl::StrCat("write sets: sequence ", i, " writes page ", static_cast<int32_t>(page), ", in ", tables,
                            " tables, node ", v.pool.node(page));
      }
    }
  }
  return "";
}

namespace {

std::string CheckNodes(const StoreView& v) {
  int32_t with_page = 0, with_slot = 0;
  for (int32_t n = 0; n < v.index.num_nodes(); ++n) {
    if (!v.index.alive(n)) continue;
    const int32_t page = v.index.page(n), slot = v.index.slot(n), parent = v.index.parent(n);
    if (page >= v.pool.num_pages() || (page >= 0 && v.pool.node(PageId{page}) != n)) {
      return absl::StrCat("index: node ", n, " names page ", page, ", which does not name it");
    }
    if (slot >= v.host.num_slots() || (slot >= 0 && v.host.node(slot) != n)) {
      return absl::StrCat("index: node ", n, " names slot ", slot, ", which does not name it");
    }
    if (page >= 0 && parent >= 0 && v.index.page(parent) < 0) {
      return absl::StrCat("index: node ", n, " is on the device, its parent ", parent, " is not");
    }
    with_page += page >= 0 ? 1 : 0;
    with_slot += slot >= 0 ? 1 : 0;
  }
  int32_t indexed = 0;
  for (size_t p = 0; p < static_cast<size_t>(v.pool.num_pages()); ++p) {
    const int32_t node = v.pool.node(Page(p));
    const PageState state = v.pool.state(Page(p));
    indexed += node >= 0 ? 1 : 0;
    const bool cached = state == PageState::kCached;
    const bool stays = state == PageState::kHeld && v.pool.fate(Page(p)) == PageState::kCached;
    if ((node >= 0) != (cached || stays)) {
      return absl::StrCat("index: page ", p, " has node ", node, " in state ", static_cast<int>(state));
    }
  }
  if (indexed != with_page || with_slot != v.host.size()) {
    return absl::StrCat("index: ", with_page, " nodes have pages, ", indexed, " pages have nodes; ", with_slot,
                        " nodes have slots, ", v.host.size(), " slots have nodes");
  }
  return "";
}

}  // namespace

std::string CheckIndexBijection(const StoreView& v) {
  if (std::string e = v.index.CheckStructure(); !e.empty()) return e;
  if (std::string e = v.host.CheckInvariants(); !e.empty()) return e;
  if (std::string e = CheckNodes(v); !e.empty()) return e;
  for (size_t i = 0; i < v.sequences.size(); ++i) {
    const OpenSequence& s = v.sequences[i];
    if (!s.open) continue;
    if (s.indexed > s.table.size()) return absl::StrCat("index: sequence ", i, " knows ", s.indexed, " pages");
    int32_t parent = s.root >= 0 ? PrefixIndex::ParentOfRoot(s.root) : -1;
    for (int32_t p = 0; p < s.table.size(); ++p) {
      const int32_t node = v.pool.node(s.table.page(p));
      if (node >= 0 && v.index.parent(node) != parent) {
        return absl::StrCat("index: page ", p, " of sequence ", i, " is node ", node, " below ", v.index.parent(node),
                            ", the page before is ", parent);
      }
      parent = node;
    }
  }
  return "";
}

std::string CheckEvictionOrder(const StoreView& v) {
  // Ranks in the order of eviction; what is in no queue comes last.
  constexpr int32_t kLast = INT32_MAX;
  std::vector<int32_t> rank(static_cast<size_t>(v.pool.num_pages()), kLast);
  std::vector<int32_t> host_rank(static_cast<size_t>(v.host.num_slots()), kLast);
  int32_t next = 0;
  for (const int32_t p : v.pool.EvictionOrder()) rank[static_cast<size_t>(p)] = next++;
  for (const int32_t s : v.host.EvictionOrder()) host_rank[static_cast<size_t>(s)] = next++;
  for (int32_t n = 0; n < v.index.num_nodes(); ++n) {
    if (!v.index.alive(n)) continue;
    const int32_t parent = v.index.parent(n);
    if (parent < 0) continue;
    if (v.index.hits(parent) < v.index.hits(n)) {
      return absl::StrCat("eviction order: node ", n, " has ", v.index.hits(n), " hits, its parent ", parent, " has ",
                          v.index.hits(parent));
    }
    const int32_t page = v.index.page(n), above = v.index.page(parent);
    if (page >= 0 && above >= 0) {
      const PageId id{page};
      const bool only_pinned = v.pool.pins(id) > 0 && v.pool.pins(id) == v.pool.ref_count(id);
      const int32_t child_rank = rank[static_cast<size_t>(page)], parent_rank = rank[static_cast<size_t>(above)];
      if (!only_pinned && parent_rank <= child_rank && parent_rank != kLast) {
        return absl::StrCat("eviction order: page ", page, " at ", child_rank, " follows its parent ", above, " at ",
                            parent_rank);
      }
    } else if (page < 0 && above < 0) {
      const int32_t slot = v.index.slot(n), slot_above = v.index.slot(parent);
      if (host_rank[static_cast<size_t>(slot_above)] <= host_rank[static_cast<size_t>(slot)]) {
        return absl::StrCat("eviction order: slot ", slot, " follows its parent ", slot_above);
      }
    }
  }
  return "";
}

std::string CheckNamespaces(const StoreView& v) {
  if (std::string e = v.index.CheckNamespaces(); !e.empty()) return e;
  for (size_t i = 0; i < v.sequences.size(); ++i) {
    const OpenSequence& s = v.sequences[i];
    for (int32_t p = 0; s.open && p < s.table.size(); ++p) {
      const int32_t node = v.pool.node(s.table.page(p));
      if (node >= 0 && v.index.root_of(node) != s.root) {
        return absl::StrCat("namespaces: sequence ", i, " of root ", s.root, " has a page of root ",
                            v.index.root_of(node));
      }
    }
  }
  return "";
}

std::string CheckIdle(const StoreView& v) {
  const KvStats s = v.pool.stats();
  size_t open = 0;
  for (const OpenSequence& q : v.sequences) open += q.open ? 1 : 0;
  if (open != 0 || s.held != 0 || s.pinned != 0 || v.claims.size() != 0) {
    return absl::StrCat("idle: ", open, " open sequences, ", s.held, " held pages, ", s.pinned, " pinned, ",
                        v.claims.size(), " claims");
  }
  return "";
}

std::string CheckEvents(std::vector<uint64_t> replayed, std::vector<uint64_t> present) {
  std::sort(replayed.begin(), replayed.end());
  std::sort(present.begin(), present.end());
  if (replayed == present) return "";
  const auto [a, b] = std::mismatch(replayed.begin(), replayed.end(), present.begin(), present.end());
  return absl::StrCat("events: ", replayed.size(), " hashes replayed, ", present.size(), " present; they part at ",
                      a == replayed.end() ? 0 : *a, " and ", b == present.end() ? 0 : *b);
}

std::string CheckAll(const StoreView& v) {
  for (const auto check :
       {CheckConservation, CheckReferences, CheckWriteSets, CheckIndexBijection, CheckEvictionOrder, CheckNamespaces}) {
    if (std::string e = check(v); !e.empty()) return e;
  }
  return "";
}

std::string SnapshotDifference(absl::string_view before, absl::string_view after) {
  if (before == after) return "";
  const auto at = std::mismatch(before.begin(), before.end(), after.begin(), after.end()).first - before.begin();
  return absl::StrCat("atomicity: ", before.size(), " bytes before, ", after.size(), " after; they part at byte ", at);
}

}  // namespace dunlin::kv
