#include "kvstore/prefix_index.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/check.h"
#include "base/prefix_hash.h"

namespace dunlin::kv {
namespace {

constexpr uint64_t kOdd1 = 0xA0761D6478BD642Fu;
constexpr uint64_t kOdd2 = 0xE7037ED1A0B428DBu;

uint64_t RandomKey() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

uint64_t Fold(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint32_t TagOf(uint64_t hash) { return static_cast<uint32_t>(hash >> 32); }

}  // namespace

PrefixIndex::PrefixIndex(const Options& options)
    : page_tokens_(static_cast<size_t>(options.page_tokens)),
      record_events_(options.record_events),
      key_(options.hash_key != 0 ? options.hash_key : RandomKey()),
      mask_(options.hash_mask) {
  CHECK_GE(options.num_nodes, 1);
  CHECK_GE(options.page_tokens, 1);
  const auto n = static_cast<size_t>(options.num_nodes);
  nodes_.resize(n);
  tokens_.resize(n * page_tokens_);
  table_.resize(n * 3 / 2 + 1);
  for (int32_t i = options.num_nodes - 1; i >= 0; --i) {
    nodes_[I(i)].next_sibling = free_;
    free_ = i;
  }
  hashes_.resize(n);
  if (options.host_slots) slots_.resize(n, -1);
  if (!record_events_) return;
  added_.reserve(2 * n);
  removed_.reserve(n);
}

int32_t PrefixIndex::OpenRoot(absl::string_view ns) {
  int32_t root = FindRoot(ns);
  if (root < 0) {
    if (free_roots_.empty()) {
      free_roots_.push_back(static_cast<int32_t>(roots_.size()));
      roots_.emplace_back();
      free_roots_.reserve(roots_.capacity());  // so that freeing a root never allocates
    }
    root = free_roots_.back();
    free_roots_.pop_back();
    Root& r = roots_[I(root)];
    r.name.assign(ns.data(), ns.size());
    r.users = 0;
    r.hash = RootPrefix(ns);
    root_of_.emplace(r.name, root);
  }
  ++roots_[I(root)].users;
  return root;
}

void PrefixIndex::CloseRoot(int32_t root) {
  CHECK_GT(roots_[I(root)].users, 0);
  --roots_[I(root)].users;
  FreeRootIfUnused(root);
}

void PrefixIndex::FreeRootIfUnused(int32_t root) {
  Root& r = roots_[I(root)];
  if (r.users > 0 || r.first_child >= 0) return;
  root_of_.erase(r.name);
  r.name.clear();
  r.users = -1;
  free_roots_.push_back(root);
}

int32_t PrefixIndex::FindRoot(absl::string_view ns) const {
  const auto it = root_of_.find(ns);
  return it == root_of_.end() ? -1 : it->second;
}

uint64_t PrefixIndex::Hash(int32_t parent, const int32_t* tokens) const {
  // The products of four tokens each do not wait for one another.
  uint64_t sum = 0, lane = key_;
  size_t i = 0;
  for (; i + 4 <= page_tokens_; i += 4, lane += kOdd1) {
    uint64_t a, b;
    std::memcpy(&a, tokens + i, sizeof(a));
    std::memcpy(&b, tokens + i + 2, sizeof(b));
    sum += Fold(a ^ lane, b ^ (lane * kOdd2 | 1));
  }
  for (; i < page_tokens_; ++i, lane += kOdd1) {
    sum += Fold(static_cast<uint32_t>(tokens[i]) ^ lane, lane * kOdd2 | 1);
  }
  return Fold(sum ^ kOdd1, (static_cast<uint32_t>(parent) + kOdd2) ^ key_) & mask_;
}

int32_t PrefixIndex::Find(int32_t parent, const int32_t* tokens) const {
  const uint32_t tag = TagOf(Hash(parent, tokens));
  for (size_t at = Home(tag);; at = Next(at)) {
    const Entry& e = table_[at];
    if (e.node < 0) return -1;
    if (e.tag != tag || nodes_[I(e.node)].parent != parent) continue;
    if (std::memcmp(tokens_.data() + I(e.node) * page_tokens_, tokens, page_tokens_ * sizeof(int32_t)) == 0) {
      return e.node;
    }
  }
}

int32_t PrefixIndex::Insert(int32_t parent, std::span<const int32_t> tokens) {
  CHECK_GE(free_, 0) << "more nodes than pages and slots";
  CHECK_EQ(tokens.size(), page_tokens_);
  DCHECK_EQ(Find(parent, tokens.data()), -1);
  const int32_t id = free_;
  Node& n = nodes_[I(id)];
  free_ = n.next_sibling;
  ++size_;
  n.parent = parent;
  n.page = n.first_child = n.prev_sibling = -1;
  n.announced = 0;
  n.hits = 0;
  int32_t& first = FirstChild(parent);
  n.next_sibling = first;
  if (first >= 0) nodes_[I(first)].prev_sibling = id;
  first = id;
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<std::ptrdiff_t>(I(id) * page_tokens_));
  const uint32_t tag = TagOf(Hash(parent, tokens.data()));
  size_t at = Home(tag);
  while (table_[at].node >= 0) at = Next(at);
  table_[at] = {tag, id};
  hashes_[I(id)] = ExtendPrefix(PrefixHashOf(parent), tokens);
  if (record_events_) Announce(id);
  return id;
}

void PrefixIndex::Remove(int32_t node) {
  Node& n = nodes_[I(node)];
  CHECK_NE(n.parent, kFree);
  CHECK(n.first_child < 0 && n.page < 0 && slot(node) < 0) << "node " << node << " is in use";
  EraseEntry(TagOf(Hash(n.parent, tokens_.data() + I(node) * page_tokens_)), node);
  (n.prev_sibling >= 0 ? nodes_[I(n.prev_sibling)].next_sibling : FirstChild(n.parent)) = n.next_sibling;
  if (n.next_sibling >= 0) nodes_[I(n.next_sibling)].prev_sibling = n.prev_sibling;
  if (record_events_ && n.announced != 0) removed_.push_back(hashes_[I(node)]);
  const int32_t parent = n.parent;
  n.parent = kFree;
  n.generation = (n.generation + 1) & 0x7FFFFFu;
  n.next_sibling = free_;
  free_ = node;
  --size_;
  if (parent < 0) FreeRootIfUnused(-2 - parent);
}

// Entries after the gap move up as long as that brings them no further than home, so there are no tombstones.
void PrefixIndex::EraseEntry(uint32_t tag, int32_t node) {
  size_t gap = Home(tag);
  while (table_[gap].node != node) {
    CHECK_GE(table_[gap].node, 0) << "node " << node << " is not in the table";
    gap = Next(gap);
  }
  const auto distance = [this](size_t from, size_t to) { return to >= from ? to - from : to + table_.size() - from; };
  for (size_t at = Next(gap); table_[at].node >= 0; at = Next(at)) {
    if (distance(Home(table_[at].tag), at) < distance(gap, at)) continue;
    table_[gap] = table_[at];
    gap = at;
  }
  table_[gap] = Entry();
}

void PrefixIndex::SetHits(int32_t node, int hits) {
  Node& n = nodes_[I(node)];
  const uint32_t most = n.parent >= 0 ? nodes_[I(n.parent)].hits : kMaxHits;
  n.hits = std::min({static_cast<uint32_t>(hits), most, kMaxHits}) & 0xFFu;
}

int32_t PrefixIndex::root_of(int32_t node) const {
  while (node >= 0) node = nodes_[I(node)].parent;
  return -2 - node;
}

// ---- Events ----

void PrefixIndex::Announce(int32_t node) {
  if (added_.size() == 2 * nodes_.size()) CompactAdded();
  added_.push_back(node);
}

// Nobody took the events for long: the list says each node once, and no dead one.
void PrefixIndex::CompactAdded() {
  size_t kept = 0;
  for (const int32_t node : added_) {
    Node& n = nodes_[I(node)];
    if (n.parent == kFree || n.announced != 0) continue;
    n.announced = 1;  // so that it is not kept twice
    added_[kept++] = node;
  }
  added_.resize(kept);
  for (const int32_t node : added_) nodes_[I(node)].announced = 0;
}

void PrefixIndex::TakeEvents(CacheEvents* events) {
  events->removed.insert(events->removed.end(), removed_.begin(), removed_.end());
  removed_.clear();
  for (const int32_t node : added_) {
    Node& n = nodes_[I(node)];
    if (n.parent == kFree || n.announced != 0) continue;
    n.announced = 1;
    events->added.push_back(hashes_[I(node)]);
  }
  added_.clear();
}

void PrefixIndex::ListHashes(std::vector<uint64_t>* hashes) const {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].parent != kFree) hashes->push_back(hashes_[i]);
  }
}

}  // namespace dunlin::kv
