// What a PrefixIndex says about itself: its invariants and its bytes.
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/prefix_hash.h"
#include "kvstore/prefix_index.h"
#include "kvstore/snapshot.h"

namespace dunlin::kv {

std::string PrefixIndex::CheckStructure() const {
  int32_t used = 0, listed = 0, children = 0, free = 0;
  for (int32_t i = 0; i < num_nodes(); ++i) {
    const Node& n = nodes_[I(i)];
    if (n.parent == kFree) continue;
    ++used;
    if (n.page < 0 && slot(i) < 0) return absl::StrCat("index: node ", i, " is resident nowhere");
    if (n.parent >= num_nodes() || -2 - n.parent >= static_cast<int32_t>(roots_.size()) ||
        (n.parent >= 0 && !alive(n.parent))) {
      return absl::StrCat("index: node ", i, " has parent ", n.parent);
    }
    if (const int32_t found = Find(n.parent, tokens(i).data()); found != i) {
      return absl::StrCat("index: node ", i, " is found as ", found);
    }
    if (hashes_[I(i)] != ExtendPrefix(PrefixHashOf(n.parent), tokens(i))) {
      return absl::StrCat("events: node ", i, " has the hash ", hashes_[I(i)]);
    }
    int32_t prev = -1, steps = 0;
    for (int32_t c = n.first_child; c >= 0; prev = c, c = nodes_[I(c)].next_sibling, ++children) {
      if (nodes_[I(c)].parent != i || nodes_[I(c)].prev_sibling != prev || ++steps > num_nodes()) {
        return absl::StrCat("index: node ", c, " is listed as a child of ", i, " after ", prev);
      }
    }
    if (n.parent < 0) ++children;  // of a root: CheckNamespaces walks those
  }
  for (const Entry& e : table_) listed += e.node >= 0 ? 1 : 0;
  for (int32_t i = free_; i >= 0 && free <= num_nodes(); i = nodes_[I(i)].next_sibling) {
    if (nodes_[I(i)].parent != kFree) return absl::StrCat("index: node ", i, " is in use and free");
    ++free;
  }
  if (used != size_ || listed != used || children != used || free != num_nodes() - used) {
    return absl::StrCat("index: ", used, " nodes in use, ", size_, " counted, ", listed, " in the table, ", children,
                        " are children, ", free, " are free");
  }
  return "";
}

std::string PrefixIndex::CheckNamespaces() const {
  std::vector<bool> reached(nodes_.size(), false);
  int32_t total = 0, named = 0;
  for (int32_t r = 0; r < static_cast<int32_t>(roots_.size()); ++r) {
    const Root& root = roots_[I(r)];
    if (root.users < 0) continue;
    ++named;
    if (FindRoot(root.name) != r) return absl::StrCat("namespaces: root ", r, " is not found by its name");
    if (root.users == 0 && root.first_child < 0) return absl::StrCat("namespaces: root ", r, " is empty and unused");
    // Depth first, by the links alone.
    int32_t at = root.first_child;
    while (at >= 0) {
      const Node& n = nodes_[I(at)];
      if (reached[I(at)]) return absl::StrCat("namespaces: node ", at, " is reached twice, now from root ", r);
      if (root_of(at) != r) return absl::StrCat("namespaces: node ", at, " below root ", r, " ends at another");
      reached[I(at)] = true;
      ++total;
      if (n.first_child >= 0) {
        at = n.first_child;
        continue;
      }
      while (at >= 0 && nodes_[I(at)].next_sibling < 0) at = nodes_[I(at)].parent;
      if (at >= 0) at = nodes_[I(at)].next_sibling;
    }
  }
  if (total != size_ || named != num_roots() ||
      named + static_cast<int32_t>(free_roots_.size()) != static_cast<int32_t>(roots_.size())) {
    return absl::StrCat("namespaces: ", total, " of ", size_, " nodes reached from ", named, " roots of ", num_roots());
  }
  return "";
}

void PrefixIndex::AppendSnapshot(std::string* out) const {
  for (int32_t i = 0; i < num_nodes(); ++i) {
    const Node& n = nodes_[I(i)];
    for (const int64_t v : std::initializer_list<int64_t>{n.parent, n.page, n.first_child, n.next_sibling,
                                                          n.prev_sibling, n.generation, n.announced, n.hits}) {
      AppendValue(v, out);
    }
    if (n.parent == kFree) continue;
    AppendValue(slot(i), out);
    for (const int32_t t : tokens(i)) AppendValue(t, out);
  }
  for (const Entry& e : table_) {
    AppendValue(e.tag, out);
    AppendValue(e.node, out);
  }
  for (const Root& r : roots_) {
    AppendValue(r.first_child, out);
    AppendValue(r.users, out);
    out->append(r.name);
  }
  for (const int32_t r : free_roots_) AppendValue(r, out);
  for (const int32_t a : added_) AppendValue(a, out);
  for (const uint64_t h : removed_) AppendValue(h, out);
  AppendValue(free_, out);
  AppendValue(size_, out);
}

}  // namespace dunlin::kv
