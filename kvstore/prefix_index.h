// Which tokens lie in which page: a tree of whole pages under one root per namespace. A node is (parent, the page's
// tokens); a prefix is found page by page, and what is found is exact: the keyed hash only finds the bucket, parent and
// tokens are always compared, so two prefixes never share a page by accident or by attack, and namespaces never meet.
// A node exists while its page is resident on the device or the host; who decides that is the owner (kv_store_impl.h).
// A parent is named by its node id or, below a root, by ParentOfRoot(root). Children are listed the newest first.
// Thread-safety: engine thread only.  Owns: nodes, hash table, roots, what TakeEvents has to tell.
// Cost: O(1) per page. Allocates in the constructor, and for the root of a new namespace. 104 bytes per node of 16
// tokens (static_assert in kv_store_impl.h), and 24 more while events are recorded. Source: ours; the hash is the
// folded multiplication of wyhash.
#ifndef DUNLIN_KVSTORE_PREFIX_INDEX_H_
#define DUNLIN_KVSTORE_PREFIX_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "kvstore/kv_types.h"

namespace dunlin::kv {

class PrefixIndex {
 public:
  struct Options {
    int32_t num_nodes = 0;
    int page_tokens = 16;
    bool host_slots = false;  // nodes may have slots
    bool record_events = false;
    uint64_t hash_key = 0;
    uint64_t hash_mask = ~uint64_t{0};
  };
  explicit PrefixIndex(const Options& options);

  // ---- Roots: one per namespace that has nodes or users ----
  int32_t OpenRoot(absl::string_view ns);  // one more user
  void ShareRoot(int32_t root) { ++roots_[I(root)].users; }
  void CloseRoot(int32_t root);                  // one less; the last one frees an empty root
  int32_t FindRoot(absl::string_view ns) const;  // -1: there is none
  static int32_t ParentOfRoot(int32_t root) { return -2 - root; }

  // The child of `parent` with these page_tokens tokens; -1: there is none.
  int32_t Find(int32_t parent, const int32_t* tokens) const;
  // A new child, with neither page nor slot yet. There must be none with these tokens.
  int32_t Insert(int32_t parent, std::span<const int32_t> tokens);
  // A node without children, page and slot.
  void Remove(int32_t node);

  int32_t parent(int32_t node) const { return nodes_[I(node)].parent; }
  int32_t first_child(int32_t parent) const { return const_cast<PrefixIndex*>(this)->FirstChild(parent); }
  int32_t next_sibling(int32_t node) const { return nodes_[I(node)].next_sibling; }
  std::span<const int32_t> tokens(int32_t node) const {
    return {tokens_.data() + I(node) * page_tokens_, page_tokens_};
  }
  int32_t page(int32_t node) const { return nodes_[I(node)].page; }
  int32_t slot(int32_t node) const { return slots_.empty() ? -1 : slots_[I(node)]; }
  void set_page(int32_t node, int32_t page) { nodes_[I(node)].page = page; }
  void set_slot(int32_t node, int32_t slot) { slots_[I(node)] = slot; }
  // How many requests found it; never more than found its parent; saturates.
  int hits(int32_t node) const { return nodes_[I(node)].hits; }
  void AddHit(int32_t node) { SetHits(node, hits(node) + 1); }
  void SetHits(int32_t node, int hits);
  // Names the prefix up to the node's page, whenever and wherever it exists (base/prefix_hash.h).
  uint64_t prefix_hash(int32_t node) const { return hashes_[I(node)]; }
  // Changes when the id is given to another node; a node of this generation is alive.
  uint32_t generation(int32_t node) const { return nodes_[I(node)].generation; }
  bool alive(int32_t node) const { return nodes_[I(node)].parent != kFree; }
  int32_t root_of(int32_t node) const;  // O(depth)
  int32_t num_nodes() const { return static_cast<int32_t>(nodes_.size()); }
  int32_t size() const { return size_; }
  int32_t num_roots() const { return static_cast<int32_t>(root_of_.size()); }
  void Prefetch(int32_t node) const {
    __builtin_prefetch(&nodes_[I(node)]);
    __builtin_prefetch(tokens_.data() + I(node) * page_tokens_);
  }
  void TakeEvents(CacheEvents* events);
  void ListHashes(std::vector<uint64_t>* hashes) const;  // of all nodes

  // Walk everything; "" or the first violated invariant with its values.
  std::string CheckStructure() const;   // nodes <-> hash table, children, free list, hashes of events
  std::string CheckNamespaces() const;  // every node hangs below exactly one root, and roots are there for a reason
  void AppendSnapshot(std::string* out) const;
  uint64_t Hash(int32_t parent, const int32_t* tokens) const;

 private:
  friend struct TestPeer;
  static constexpr uint32_t kMaxHits = 255;
  static constexpr int32_t kFree = std::numeric_limits<int32_t>::min();
  struct Node {
    int32_t parent = kFree;
    int32_t page = -1;
    int32_t first_child = -1;
    int32_t next_sibling = -1;  // of a free node: the next free one
    int32_t prev_sibling = -1;
    uint32_t generation : 23 = 0;
    uint32_t announced : 1 = 0;  // the reader of events knows of it
    uint32_t hits : 8 = 0;
  };
  struct Entry {
    uint32_t tag = 0;
    int32_t node = -1;
  };
  struct Root {
    std::string name;
    int32_t first_child = -1;
    int32_t users = -1;  // -1: free
    uint64_t hash = 0;
  };

 public:
  // Without the tokens. The table is two thirds full when every node is used.
  static constexpr size_t kBytesPerNode = sizeof(Node) + sizeof(uint64_t) + sizeof(Entry) * 3 / 2;

 private:
  int32_t& FirstChild(int32_t parent) {
    return parent >= 0 ? nodes_[I(parent)].first_child : roots_[I(-2 - parent)].first_child;
  }
  size_t Home(uint32_t tag) const { return static_cast<size_t>(uint64_t{tag} * table_.size() >> 32); }
  size_t Next(size_t at) const { return at + 1 == table_.size() ? 0 : at + 1; }
  void EraseEntry(uint32_t tag, int32_t node);
  void FreeRootIfUnused(int32_t root);
  uint64_t PrefixHashOf(int32_t parent) const { return parent >= 0 ? hashes_[I(parent)] : roots_[I(-2 - parent)].hash; }
  void Announce(int32_t node);
  void CompactAdded();
  static constexpr size_t I(int32_t i) { return static_cast<size_t>(i); }

  const size_t page_tokens_;
  const bool record_events_;
  const uint64_t key_;
  const uint64_t mask_;
  std::vector<Node> nodes_;
  std::vector<int32_t> tokens_;  // [num_nodes][page_tokens]
  std::vector<Entry> table_;
  int32_t free_ = -1;
  int32_t size_ = 0;
  std::vector<Root> roots_;
  std::vector<int32_t> free_roots_;
  absl::flat_hash_map<std::string, int32_t> root_of_;
  std::vector<uint64_t> hashes_;   // [num_nodes]
  std::vector<int32_t> slots_;     // [num_nodes], with a host tier only
  std::vector<int32_t> added_;     // nodes to announce; some may be gone since
  std::vector<uint64_t> removed_;  // hashes of announced nodes that are gone
};

}  // namespace dunlin::kv

#endif  // DUNLIN_KVSTORE_PREFIX_INDEX_H_
