// Each named check is shown to fail on bookkeeping that violates it, and on that alone to be silent.
#include "kvstore/invariants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/kv_store_impl.h"

namespace dunlin::kv {

// Reaches into the parts behind their backs.
struct TestPeer {
  static PagePool& pool(PagedKvStore* s) { return s->pool_; }
  static PrefixIndex& index(PagedKvStore* s) { return s->index_; }
  static HostTier& host(PagedKvStore* s) { return s->host_; }
  static OpenSequence& sequence(PagedKvStore* s, int32_t i) { return s->sequences_[static_cast<size_t>(i)]; }
  static auto& free_sequences(PagedKvStore* s) { return s->free_sequences_; }
  static auto& meta(PagedKvStore* s, int32_t page) { return s->pool_.meta_[static_cast<size_t>(page)]; }
  static int32_t& blank_size(PagedKvStore* s) { return s->pool_.blank_size_; }
  static int32_t& waiting(PagedKvStore* s) { return s->pool_.waiting_for_pins_; }
  static auto& queue(PagedKvStore* s) { return s->pool_.cached_; }
  template <typename Queue>
  static uint32_t& ranks(Queue* q) {
    return q->ranks_;
  }
  static std::vector<int32_t>& ids(PageTable* t) { return t->ids_; }
  static auto& node(PagedKvStore* s, int32_t n) { return s->index_.nodes_[static_cast<size_t>(n)]; }
  static auto& tokens(PagedKvStore* s) { return s->index_.tokens_; }
  static auto& entries(PagedKvStore* s) { return s->index_.table_; }
  static auto& roots(PagedKvStore* s) { return s->index_.roots_; }
  static auto& hashes(PagedKvStore* s) { return s->index_.hashes_; }
  static auto& slot(PagedKvStore* s, int32_t i) { return s->host_.slots_[static_cast<size_t>(i)]; }
};

namespace {

using ::testing::StartsWith;

std::vector<int32_t> Range(int32_t first, int32_t n) {
  std::vector<int32_t> t(static_cast<size_t>(n));
  std::iota(t.begin(), t.end(), first);
  return t;
}

// Sequence 0 holds pages 0-2, the first two of them indexed as nodes 0 and 1, and is writing page 2. Pages 3 and 4 are
// cached in another namespace as nodes 2 and 3; page 5 was evicted to the host as a child of those, node 4. Pages 5 to
// 7 are blank.
class InvariantsTest : public ::testing::Test {
 protected:
  InvariantsTest() {
    KvOptions o;
    o.num_pages = 8;
    o.page_tokens = 2;
    o.max_sequences = 3;
    o.max_pages_per_sequence = 8;
    o.host_slots = 2;
    store_ = std::make_unique<PagedKvStore>(o);
    held_ = store_->Match("held", Range(0, 6), {}).sequence;
    EXPECT_EQ(store_->Reserve(held_, 0, 4), ReserveOutcome::kGranted);
    store_->Publish(held_, Range(0, 4));
    store_->EndStep();
    // Twice, so that it is worth keeping on the host.
    for (int i = 0; i < 2; ++i) {
      const MatchResult m = store_->Match("cached", Range(50, 7), {});
      EXPECT_EQ(store_->Reserve(m.sequence, m.matched_tokens, 6), ReserveOutcome::kGranted);
      store_->Publish(m.sequence, Range(50, 6));
      store_->Release(m.sequence);
      store_->EndStep();
    }
    const SequenceId wide = store_->Match("", Range(0, 2), {}).sequence;
    EXPECT_EQ(store_->Reserve(wide, 0, 8), ReserveOutcome::kGranted);  // one page more than there are blank
    store_->Release(wide);
    EXPECT_EQ(store_->Reserve(held_, 4, 6), ReserveOutcome::kGranted);
    EXPECT_EQ(Stats(), "held 3 cached 2 host 1");
    EXPECT_EQ(store_->CheckInvariants(), "");
  }
  // A corrupted store cannot be torn down in good order: it is kept for ever.
  ~InvariantsTest() override {
    if (corrupted_) {
      static auto* const kept = new std::vector<std::unique_ptr<PagedKvStore>>;
      kept->push_back(std::move(store_));
    } else {
      store_->Release(held_);
    }
  }

  std::string Stats() const {
    const KvStats s = store_->Stats();
    return "held " + std::to_string(s.held) + " cached " + std::to_string(s.cached) + " host " +
           std::to_string(s.host_pages);
  }
  // What CheckAll says of the corrupted store; corrupt again to mend.
  void ExpectViolation(const char* name) {
    corrupted_ = true;
    EXPECT_THAT(store_->CheckInvariants(), StartsWith(name));
  }

  std::unique_ptr<PagedKvStore> store_;
  SequenceId held_{};
  bool corrupted_ = false;
};

TEST_F(InvariantsTest, ConservationFindsAPageInTheWrongState) {
  auto& m = TestPeer::meta(store_.get(), 6);
  m.state = static_cast<uint32_t>(PageState::kQuarantine) & 3u;
  ExpectViolation("conservation");
  m.state = static_cast<uint32_t>(PageState::kBlank) & 3u;
  EXPECT_EQ(store_->CheckInvariants(), "");
}

TEST_F(InvariantsTest, ConservationFindsALostBlankPage) {
  --TestPeer::blank_size(store_.get());
  ExpectViolation("conservation");
}

TEST_F(InvariantsTest, ConservationFindsBrokenListsAndBits) {
  PagePool& pool = TestPeer::pool(store_.get());
  auto& m = TestPeer::meta(store_.get(), pool.EvictionOrder().back());
  const int32_t prev = m.prev;
  m.prev = 7;
  ExpectViolation("conservation");
  m.prev = prev;
  m.level = (m.level + 1) & 63u;
  ExpectViolation("conservation");
  m.level = (m.level - 1) & 63u;
  TestPeer::ranks(&TestPeer::queue(store_.get())) ^= 1u << 9;
  ExpectViolation("conservation");
}

TEST_F(InvariantsTest, ConservationFindsALostSequence) {
  TestPeer::free_sequences(store_.get()).pop_back();
  ExpectViolation("conservation");
}

TEST_F(InvariantsTest, ReferencesFindsACountThatIsOff) {
  ++TestPeer::meta(store_.get(), 1).refs;
  ExpectViolation("references");
  --TestPeer::meta(store_.get(), 1).refs;
  ++TestPeer::waiting(store_.get());
  ExpectViolation("references");
}

TEST_F(InvariantsTest, ReferencesFindsAPageNamedTwice) {
  TestPeer::ids(&TestPeer::sequence(store_.get(), 0).table)[1] = 0;
  ExpectViolation("references");
}

TEST_F(InvariantsTest, ReferencesFindsAPageThatIsNone) {
  TestPeer::ids(&TestPeer::sequence(store_.get(), 0).table)[1] = 99;
  ExpectViolation("references");
}

TEST_F(InvariantsTest, WriteSetsFindsAnIndexedPage) {
  TestPeer::sequence(store_.get(), 0).write_first = 1;
  ExpectViolation("write sets");
  TestPeer::sequence(store_.get(), 0).write_first = 2;
  TestPeer::sequence(store_.get(), 0).write_last = 4;
  ExpectViolation("write sets");
}

TEST_F(InvariantsTest, IndexFindsAPageAndANodeThatDisagree) {
  auto& m = TestPeer::meta(store_.get(), 1);
  m.node = 0;
  ExpectViolation("index");
  m.node = -1;
  ExpectViolation("index");
}

TEST_F(InvariantsTest, IndexFindsAnIndexedPageThatWouldBecomeBlank) {
  TestPeer::meta(store_.get(), 1).fate = static_cast<uint32_t>(PageState::kBlank) & 3u;
  ExpectViolation("index");
}

TEST_F(InvariantsTest, IndexFindsOtherTokensThanTheNodeIsKeyedBy) {
  ++TestPeer::tokens(store_.get())[3];
  ExpectViolation("index");
}

TEST_F(InvariantsTest, IndexFindsALostTableEntry) {
  for (auto& e : TestPeer::entries(store_.get())) {
    if (e.node == 1) e.node = -1;
  }
  ExpectViolation("index");
}

TEST_F(InvariantsTest, IndexFindsABrokenListOfChildren) {
  TestPeer::node(store_.get(), 0).first_child = -1;
  ExpectViolation("index");
}

TEST_F(InvariantsTest, IndexFindsATableThatIsNoPath) {
  TestPeer::sequence(store_.get(), 0).root = 1;
  ExpectViolation("index");
}

TEST_F(InvariantsTest, IndexFindsASlotThatNamesAnotherNode) {
  const int32_t slot = TestPeer::host(store_.get()).Weakest();
  ASSERT_GE(slot, 0);
  const int32_t node = TestPeer::slot(store_.get(), slot).node;
  TestPeer::slot(store_.get(), slot).node = 0;
  ExpectViolation("index");
  TestPeer::slot(store_.get(), slot).node = -1;
  ExpectViolation("host");
  TestPeer::slot(store_.get(), slot).node = node;
  EXPECT_EQ(store_->CheckInvariants(), "");
}

TEST_F(InvariantsTest, EvictionOrderFindsAParentThatGoesFirst) {
  PagePool& pool = TestPeer::pool(store_.get());
  const PageId leaf{pool.EvictionOrder().front()};
  pool.SetNode(leaf, pool.node(leaf));
  pool.Requeue(leaf, 15);
  ExpectViolation("eviction order");
}

TEST_F(InvariantsTest, EvictionOrderFindsAChildWithMoreHits) {
  TestPeer::node(store_.get(), 1).hits = 9;
  ExpectViolation("eviction order");
}

TEST_F(InvariantsTest, NamespacesFindsAPageReachedFromTwoRoots) {
  // Both namespaces list the same first page, and all of it is consistent but for the parent link.
  auto& roots = TestPeer::roots(store_.get());
  roots[1].first_child = roots[0].first_child;
  ExpectViolation("namespaces");
}

TEST_F(InvariantsTest, NamespacesFindsARootThatIsNotNeeded) {
  const int32_t root = TestPeer::index(store_.get()).OpenRoot("nobody");
  TestPeer::roots(store_.get())[static_cast<size_t>(root)].users = 0;
  ExpectViolation("namespaces");
}

TEST_F(InvariantsTest, EventsFindsAHashThatIsNotThePrefixs) {
  TestPeer::hashes(store_.get())[1] ^= 1;
  ExpectViolation("events");
  EXPECT_EQ(CheckEvents({3, 1, 2}, {1, 2, 3}), "");
  EXPECT_THAT(CheckEvents({1, 2}, {1, 2, 3}), StartsWith("events"));
  EXPECT_THAT(CheckEvents({1, 2, 4}, {1, 2, 3}), StartsWith("events"));
}

TEST_F(InvariantsTest, IdleNamesWhatIsLeft) {
  EXPECT_EQ(store_->CheckIdle(), "idle: 1 open sequences, 3 held pages, 0 pinned, 0 claims");
  EXPECT_TRUE(store_->Claim(held_, 4, Range(0, 8)));
  const PageId first{store_->PageTable(held_)[0]};
  store_->Pin(first);
  store_->Release(held_);
  EXPECT_EQ(store_->CheckIdle(), "idle: 0 open sequences, 1 held pages, 1 pinned, 0 claims");
  store_->Unpin(first);
  EXPECT_EQ(store_->CheckIdle(), "");
  held_ = store_->Match("", Range(0, 2), {}).sequence;
}

TEST_F(InvariantsTest, ASnapshotSeesEveryPart) {
  const std::string before = store_->DebugSnapshot();
  EXPECT_EQ(SnapshotDifference(before, store_->DebugSnapshot()), "");
  const std::vector<std::function<void()>> changes = {
      [this] { ++TestPeer::meta(store_.get(), 0).generation; },
      [this] { TestPeer::node(store_.get(), 0).hits = 200; },
      [this] { ++TestPeer::sequence(store_.get(), 0).matched_tokens; },
      [this] { ++TestPeer::slot(store_.get(), 0).guarded; },
      [this] { ++TestPeer::tokens(store_.get())[0]; },
      [this] { store_->Claim(held_, 4, Range(0, 8)); },
  };
  corrupted_ = true;
  std::string last = before;
  for (size_t i = 0; i < changes.size(); ++i) {
    changes[i]();
    const std::string now = store_->DebugSnapshot();
    EXPECT_THAT(SnapshotDifference(last, now), StartsWith("atomicity")) << "change " << i;
    last = now;
  }
}

}  // namespace
}  // namespace dunlin::kv
