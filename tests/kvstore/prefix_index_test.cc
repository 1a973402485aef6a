#include "kvstore/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/prefix_hash.h"

namespace dunlin::kv {
namespace {

using Tokens = std::vector<int32_t>;

PrefixIndex::Options Options(int32_t num_nodes, int page_tokens, uint64_t hash_mask = ~uint64_t{0}) {
  PrefixIndex::Options o;
  o.num_nodes = num_nodes;
  o.page_tokens = page_tokens;
  o.record_events = true;
  o.hash_key = 7;
  o.hash_mask = hash_mask;
  return o;
}

// A node is resident somewhere or it is not there.
int32_t Add(PrefixIndex* index, int32_t parent, const Tokens& tokens) {
  const int32_t node = index->Insert(parent, tokens);
  index->set_page(node, node);
  return node;
}
void Drop(PrefixIndex* index, int32_t node) {
  index->set_page(node, -1);
  index->Remove(node);
}

class PrefixIndexTest : public ::testing::TestWithParam<uint64_t> {};  // the mask of the hash

TEST_P(PrefixIndexTest, FindsTheChildWithTheseTokensAlone) {
  for (const int n : {1, 2, 3, 8, 16, 32, 64}) {
    SCOPED_TRACE(n);
    PrefixIndex index(Options(8, n, GetParam()));
    const int32_t root = PrefixIndex::ParentOfRoot(index.OpenRoot("a"));
    const int32_t other = PrefixIndex::ParentOfRoot(index.OpenRoot("b"));
    const Tokens tokens(static_cast<size_t>(n), 5);
    const int32_t node = Add(&index, root, tokens);
    EXPECT_EQ(index.Find(root, tokens.data()), node);
    EXPECT_EQ(index.Find(other, tokens.data()), -1);
    EXPECT_EQ(index.Find(node, tokens.data()), -1);
    for (int i = 0; i < n; ++i) {
      Tokens changed = tokens;
      changed[static_cast<size_t>(i)] = 6;
      EXPECT_EQ(index.Find(root, changed.data()), -1) << "token " << i << " is not compared";
    }
    const int32_t below = Add(&index, node, tokens);
    EXPECT_EQ(index.Find(node, tokens.data()), below);
    EXPECT_EQ(index.root_of(below), 0);
    EXPECT_EQ(index.CheckStructure(), "");
    EXPECT_EQ(index.CheckNamespaces(), "");
  }
}

TEST_P(PrefixIndexTest, BehavesAsAMapUnderRandomInsertsAndRemovals) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const auto below = [&random](size_t n) { return static_cast<size_t>(random() % n); };
    PrefixIndex index(Options(40, 2, GetParam()));
    const std::vector<int32_t> roots = {PrefixIndex::ParentOfRoot(index.OpenRoot("a")),
                                        PrefixIndex::ParentOfRoot(index.OpenRoot("b"))};
    std::map<std::pair<int32_t, Tokens>, int32_t> model;
    for (int op = 0; op < 3000; ++op) {
      std::vector<int32_t> parents = roots;
      for (const auto& [key, node] : model) parents.push_back(node);
      const int32_t parent = parents[below(parents.size())];
      const Tokens tokens = {static_cast<int32_t>(below(3)), static_cast<int32_t>(below(3))};
      const auto it = model.find({parent, tokens});
      ASSERT_EQ(index.Find(parent, tokens.data()), it == model.end() ? -1 : it->second) << "operation " << op;
      if (it == model.end()) {
        if (model.size() < 40 && below(3) != 0) model[{parent, tokens}] = Add(&index, parent, tokens);
      } else if (index.first_child(it->second) < 0) {
        Drop(&index, it->second);
        model.erase(it);
      }
      ASSERT_EQ(index.size(), static_cast<int32_t>(model.size()));
      if (op % 8 != 0) continue;
      ASSERT_EQ(index.CheckStructure(), "") << "operation " << op;
      ASSERT_EQ(index.CheckNamespaces(), "") << "operation " << op;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Hashes, PrefixIndexTest,
                         ::testing::Values(~uint64_t{0}, 0, uint64_t{0x8000'0000'0000'0000}, uint64_t{0xFFFF'FFFF}));

TEST(PrefixIndex, ARootLivesWhileItHasUsersOrNodes) {
  PrefixIndex index(Options(4, 2));
  EXPECT_EQ(index.FindRoot("a"), -1);
  const int32_t root = index.OpenRoot("a");
  EXPECT_EQ(index.OpenRoot("a"), root);
  const int32_t node = Add(&index, PrefixIndex::ParentOfRoot(root), {1, 2});
  index.CloseRoot(root);
  index.CloseRoot(root);
  EXPECT_EQ(index.FindRoot("a"), root);
  Drop(&index, node);
  EXPECT_EQ(index.FindRoot("a"), -1);
  EXPECT_EQ(index.OpenRoot("b"), root) << "its place is used again";
  EXPECT_EQ(index.num_roots(), 1);
  EXPECT_EQ(index.CheckNamespaces(), "");
}

TEST(PrefixIndex, NamesArePlainBytes) {
  PrefixIndex index(Options(4, 2));
  const std::string zero("a\0b", 3);
  EXPECT_NE(index.OpenRoot(zero), index.OpenRoot("a"));
  EXPECT_NE(index.OpenRoot(""), index.OpenRoot(std::string(1, '\0')));
  EXPECT_EQ(index.num_roots(), 4);
}

TEST(PrefixIndex, ChildrenAreListedTheNewestFirst) {
  PrefixIndex index(Options(4, 1));
  const int32_t root = PrefixIndex::ParentOfRoot(index.OpenRoot("a"));
  const int32_t a = Add(&index, root, {1}), b = Add(&index, root, {2}), c = Add(&index, root, {3});
  const auto children = [&] {
    std::vector<int32_t> list;
    for (int32_t i = index.first_child(root); i >= 0; i = index.next_sibling(i)) list.push_back(i);
    return list;
  };
  EXPECT_EQ(children(), (std::vector<int32_t>{c, b, a}));
  Drop(&index, b);
  EXPECT_EQ(children(), (std::vector<int32_t>{c, a}));
}

TEST(PrefixIndex, ANodeHasNoMoreHitsThanItsParentAndAnotherGenerationAfterItsEnd) {
  PrefixIndex index(Options(4, 1));
  const int32_t root = PrefixIndex::ParentOfRoot(index.OpenRoot("a"));
  const int32_t parent = Add(&index, root, {1}), child = Add(&index, parent, {2});
  index.SetHits(parent, 3);
  index.SetHits(child, 9);
  EXPECT_EQ(index.hits(child), 3);
  index.AddHit(child);
  EXPECT_EQ(index.hits(child), 3);
  for (int i = 0; i < 300; ++i) index.AddHit(parent);
  EXPECT_EQ(index.hits(parent), 255);
  const uint32_t generation = index.generation(child);
  Drop(&index, child);
  EXPECT_FALSE(index.alive(child));
  EXPECT_EQ(Add(&index, root, {5}), child);
  EXPECT_NE(index.generation(child), generation);
  EXPECT_EQ(index.hits(child), 0);
}

TEST(PrefixIndex, HashesAreThoseThatARouterComputes) {
  PrefixIndex index(Options(4, 2));
  const int32_t root = PrefixIndex::ParentOfRoot(index.OpenRoot("tenant"));
  const int32_t a = Add(&index, root, {1, 2});
  const int32_t b = Add(&index, a, {3, 4});
  EXPECT_EQ(index.prefix_hash(b), ExtendPrefix(RootPrefix("tenant"), Tokens{1, 2, 3, 4}));
  CacheEvents events;
  index.TakeEvents(&events);
  EXPECT_EQ(events.added, (std::vector<uint64_t>{index.prefix_hash(a), index.prefix_hash(b)}));
}

TEST(PrefixIndexDeathTest, ANodeInUseIsNotRemoved) {
  PrefixIndex index(Options(4, 1));
  const int32_t root = PrefixIndex::ParentOfRoot(index.OpenRoot("a"));
  const int32_t parent = Add(&index, root, {1});
  EXPECT_DEATH(index.Remove(parent), "in use");
  Add(&index, parent, {2});
  index.set_page(parent, -1);
  EXPECT_DEATH(index.Remove(parent), "in use");
}

}  // namespace
}  // namespace dunlin::kv
