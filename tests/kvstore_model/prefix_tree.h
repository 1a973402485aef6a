// Names every prefix that occurs in a run: a node is (namespace, tokens), and equal prefixes are one node, found by
// comparing tokens and nothing else. What a KV slot must hold is the node of the prefix that ends there.
// Thread-safety: none.  Owns: the tree. Cost: a map look-up per token. Source: ours, the naive side of the proof.
#ifndef DUNLIN_TESTS_KVSTORE_MODEL_PREFIX_TREE_H_
#define DUNLIN_TESTS_KVSTORE_MODEL_PREFIX_TREE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/prefix_hash.h"

namespace dunlin::testing {

class PrefixTree {
 public:
  explicit PrefixTree(int page_tokens) : page_tokens_(page_tokens) {}

  int AddRoot(absl::string_view cache_namespace) {
    nodes_.push_back({-1, 0, 0, RootPrefix(cache_namespace)});
    return static_cast<int>(nodes_.size()) - 1;
  }

  // The prefix with one more token.
  int Child(int node, int32_t token) {
    const auto [at, fresh] = children_.try_emplace({node, token}, static_cast<int>(nodes_.size()));
    if (!fresh) return at->second;
    nodes_.push_back({node, depth(node) + 1, token, 0});
    const int child = at->second;
    if (depth(child) % page_tokens_ == 0) {
      nodes_.back().hash = ExtendPrefix(nodes_[Index(PageParent(child))].hash, Tokens(child, page_tokens_));
      by_hash_[nodes_.back().hash] = child;
    }
    return child;
  }

  int depth(int node) const { return nodes_[Index(node)].depth; }
  // The prefix without its last page; of a node at a whole number of pages.
  int PageParent(int node) const {
    for (int i = 0; i < page_tokens_; ++i) node = nodes_[Index(node)].parent;
    return node;
  }
  // The last `count` tokens.
  std::vector<int32_t> Tokens(int node, int count) const {
    std::vector<int32_t> out(static_cast<size_t>(count));
    for (size_t i = out.size(); i-- > 0; node = nodes_[Index(node)].parent) out[i] = nodes_[Index(node)].token;
    return out;
  }
  int Root(int node) const {
    while (nodes_[Index(node)].parent >= 0) node = nodes_[Index(node)].parent;
    return node;
  }
  bool IsPrefix(int shorter, int longer) const {
    while (longer >= 0 && depth(longer) > depth(shorter)) longer = nodes_[Index(longer)].parent;
    return longer == shorter;
  }
  // The node of whole pages with this hash; -1 when there is none.
  int Find(uint64_t hash) const {
    const auto at = by_hash_.find(hash);
    return at == by_hash_.end() ? -1 : at->second;
  }

 private:
  struct Node {
    int parent;
    int depth;
    int32_t token;
    uint64_t hash;  // of whole pages only
  };
  static size_t Index(int node) { return static_cast<size_t>(node); }

  const int page_tokens_;
  std::vector<Node> nodes_;
  std::map<std::pair<int, int32_t>, int> children_;
  std::map<uint64_t, int> by_hash_;
};

}  // namespace dunlin::testing

#endif  // DUNLIN_TESTS_KVSTORE_MODEL_PREFIX_TREE_H_
