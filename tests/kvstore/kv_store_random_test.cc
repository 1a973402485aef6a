// Random operations on two stores at once, one of which has a hash that makes all keys collide: both must do the same.
// Beside them a memory that carries out the moves and the writes, in which every slot names the prefix that it belongs
// to. Whatever a sequence calls computed must read back as its own prefix: that finds stale reuse, a missing copy, a
// page shared that should not be, a record restored from the wrong slot.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/prefix_hash.h"
#include "kvstore/invariants.h"
#include "kvstore/kv_store.h"

namespace dunlin::kv {
namespace {

struct Shape {
  int32_t pages;
  int page_tokens;
  int32_t host_slots;
  EvictionPolicy eviction;
};

class World {
 public:
  World(const Shape& shape, uint64_t seed) : shape_(shape), random_(seed) {
    KvOptions o;
    o.num_pages = shape.pages;
    o.page_tokens = shape.page_tokens;
    o.max_sequences = 5;
    o.max_pages_per_sequence = 8;
    o.host_slots = shape.host_slots;
    o.eviction = shape.eviction;
    o.record_events = true;
    o.hash_key = seed + 1;
    kv_ = KvStore::Create(o);
    o.hash_mask = 0;
    twin_ = KvStore::Create(o);
    memory_.assign(static_cast<size_t>(shape.pages * shape.page_tokens), 0);
    host_.assign(static_cast<size_t>(shape.host_slots * shape.page_tokens), 0);
  }

  void RunOne() {
    switch (Below(12)) {
      case 0:
      case 1:
      case 2:
        return Open();
      case 3:
      case 4:
      case 5:
        return Step();
      case 6:
      case 7:
        return Close();
      case 8:
        return Fork();
      case 9:
        return Truncate();
      case 10:
        return PinOrUnpin();
      default:
        return Below(12) == 0 ? FlushOrAbsolve() : Extend();
    }
  }

  void Check() {
    ASSERT_EQ(kv_->CheckInvariants(), "");
    ASSERT_EQ(twin_->CheckInvariants(), "");
    Replay();
    for (const Seq& s : open_) {
      const std::span<const int32_t> table = kv_->PageTable(s.id);
      ASSERT_TRUE(std::ranges::equal(table, twin_->PageTable(s.id))) << "the hash shows";
      for (int32_t i = 0; i < s.computed; ++i) {
        const int32_t page = table[static_cast<size_t>(i / shape_.page_tokens)];
        ASSERT_EQ(Slot(page, i % shape_.page_tokens), s.Prefix(i)) << "token " << i << " of sequence " << int(s.id);
      }
    }
  }

  void CloseAll() {
    while (!open_.empty()) CloseAt(0);
    for (const PageId p : pins_) Both([&](KvStore* kv) { kv->Unpin(p); });
    pins_.clear();
    EXPECT_EQ(kv_->CheckIdle(), "");
    EXPECT_EQ(kv_->CheckInvariants(), "");
  }
  KvStats stats() const { return kv_->Stats(); }

 private:
  struct Seq {
    SequenceId id;
    std::string ns;
    std::vector<int32_t> tokens;
    int32_t computed = 0;

    uint64_t Prefix(int32_t position) const {
      return ExtendPrefix(RootPrefix(ns), std::span(tokens).first(static_cast<size_t>(position) + 1));
    }
  };

  int32_t Below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint64_t>(n)); }
  template <typename F>
  void Both(F&& f) {
    f(kv_.get());
    f(twin_.get());
  }
  uint64_t& Slot(int32_t page, int32_t offset) {
    return memory_[static_cast<size_t>(page * shape_.page_tokens + offset)];
  }
  Seq& Any() { return open_[static_cast<size_t>(Below(static_cast<int32_t>(open_.size())))]; }
  int32_t MaxTokens() const { return 8 * shape_.page_tokens; }

  // Carries out what the store asks for; page i of `broken` gets garbage instead of its record.
  void Move(std::vector<int32_t>* restored, bool break_restores) {
    std::vector<PageMove> moves, twin;
    kv_->TakeMoves(&moves);
    twin_->TakeMoves(&twin);
    ASSERT_EQ(moves.size(), twin.size());
    const auto n = static_cast<size_t>(shape_.page_tokens);
    for (size_t i = 0; i < moves.size(); ++i) {
      const PageMove& m = moves[i];
      ASSERT_TRUE(m.kind == twin[i].kind && m.from == twin[i].from && m.to == twin[i].to);
      const auto& source = m.kind == PageMove::Kind::kRestore ? host_ : memory_;
      auto& target = m.kind == PageMove::Kind::kSave ? host_ : memory_;
      std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(m.from) * n), n,
                  target.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(m.to) * n));
      if (m.kind != PageMove::Kind::kRestore) continue;
      if (restored != nullptr) restored->push_back(m.to);
      if (break_restores) std::fill_n(&Slot(m.to, 0), n, 0xBAD);
    }
  }

  void Open() {
    if (open_.size() == 5) return;
    Seq s;
    s.ns = Below(4) == 0 ? "b" : "a";
    const int32_t n = 1 + Below(MaxTokens() - 2);
    for (int32_t i = 0; i < n; ++i) s.tokens.push_back(Below(8) == 0 ? 1 : 0);
    Move(nullptr, false);
    const bool restore = Below(3) != 0;
    std::array<MatchResult, 2> m;
    size_t at = 0;
    PrefixHint hint;
    kv_->Peek(s.ns, s.tokens, &hint);
    Both([&](KvStore* kv) { m[at++] = kv->Match(s.ns, s.tokens, {.read = true, .restore = restore}); });
    ASSERT_EQ(m[0].sequence, m[1].sequence);
    ASSERT_EQ(m[0].matched_tokens, m[1].matched_tokens);
    ASSERT_LT(m[0].matched_tokens, n);
    ASSERT_LE(m[0].matched_tokens - m[0].copied_tokens, hint.tokens) << "more than Peek saw";
    s.id = m[0].sequence;
    s.computed = m[0].matched_tokens;
    const bool fail = m[0].restored_tokens > 0 && Below(4) == 0;
    std::vector<int32_t> restored;
    Move(&restored, fail);
    if (fail && !restored.empty()) {
      // Only pages of this sequence: everything before was moved before.
      const PageId page{restored[static_cast<size_t>(Below(static_cast<int32_t>(restored.size())))]};
      for (const int32_t p : restored) {
        Both([&](KvStore* kv) { s.computed = kv->FailRestore(s.id, PageId{p}); });
      }
      ASSERT_EQ(std::ranges::count(kv_->PageTable(s.id), static_cast<int32_t>(page)), 0);
    }
    open_.push_back(std::move(s));
  }

  void Step() {
    const bool fail = Below(15) == 0;
    std::vector<size_t> stepped;
    std::vector<int32_t> ends(open_.size(), 0);
    for (size_t i = 0; i < open_.size(); ++i) {
      Seq& s = open_[i];
      const auto size = static_cast<int32_t>(s.tokens.size());
      if (Below(3) == 0 || s.computed == size) continue;
      std::array<int32_t, 2> got;
      size_t at = 0;
      Both([&](KvStore* kv) { got[at++] = kv->Adopt(s.id, s.computed, s.tokens); });
      ASSERT_EQ(got[0], got[1]);
      s.computed = got[0];
      const int32_t end = s.computed + 1 + Below(size - s.computed);
      const std::span<const int32_t> tokens = std::span(s.tokens).first(static_cast<size_t>(end));
      at = 0;
      Both([&](KvStore* kv) { got[at++] = kv->Claim(s.id, s.computed, tokens) ? 1 : 0; });
      ASSERT_EQ(got[0], got[1]);
      if (got[0] == 0) continue;
      const std::string before = kv_->DebugSnapshot();
      const ReserveOutcome outcome = kv_->Reserve(s.id, s.computed, end);
      ASSERT_EQ(twin_->Reserve(s.id, s.computed, end), outcome);
      if (outcome != ReserveOutcome::kGranted) {
        ASSERT_EQ(SnapshotDifference(before, kv_->DebugSnapshot()), "");
        continue;
      }
      stepped.push_back(i);
      ends[i] = end;
    }
    ASSERT_EQ(kv_->CheckInvariants(), "");
    Move(nullptr, false);
    for (const size_t i : stepped) {
      Seq& s = open_[i];
      for (int32_t t = s.computed; t < ends[i]; ++t) {
        const int32_t page = kv_->PageTable(s.id)[static_cast<size_t>(t / shape_.page_tokens)];
        Slot(page, t % shape_.page_tokens) = fail ? 0xFA11 : s.Prefix(t);
      }
    }
    if (fail) {
      Both([](KvStore* kv) { kv->FailStep(); });
      for (auto it = stepped.rbegin(); it != stepped.rend(); ++it) {
        const Seq& s = open_[*it];
        Both([&](KvStore* kv) { kv->Publish(s.id, std::span(s.tokens).first(static_cast<size_t>(ends[*it]))); });
        CloseAt(*it);
      }
      return;
    }
    for (const size_t i : stepped) {
      Seq& s = open_[i];
      s.computed = ends[i];
      if (Below(6) == 0) continue;
      Both([&](KvStore* kv) { kv->Publish(s.id, std::span(s.tokens).first(static_cast<size_t>(s.computed))); });
    }
    Both([](KvStore* kv) { kv->EndStep(); });
  }

  void CloseAt(size_t i) {
    Both([&](KvStore* kv) { kv->Release(open_[i].id); });
    open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void Close() {
    if (!open_.empty()) CloseAt(static_cast<size_t>(Below(static_cast<int32_t>(open_.size()))));
  }
  void Fork() {
    if (open_.empty() || open_.size() == 5) return;
    Seq s = Any();
    const SequenceId from = s.id;
    s.id = kv_->Fork(from);
    ASSERT_EQ(twin_->Fork(from), s.id);
    open_.push_back(std::move(s));
  }
  // Rejected drafts, or a prompt that is computed again from further back.
  void Truncate() {
    if (open_.empty()) return;
    Seq& s = Any();
    const int32_t n = Below(static_cast<int32_t>(s.tokens.size()) + 1);
    s.computed = std::min(s.computed, n);
    if (Below(2) == 0) return;  // the next step writes into what is there
    Both([&](KvStore* kv) { kv->Truncate(s.id, n); });
    if (Below(2) == 0) return;
    s.tokens.resize(static_cast<size_t>(std::max(n, 1)));
    for (int32_t& t : std::span(s.tokens).subspan(static_cast<size_t>(s.computed))) t = Below(2);
  }
  void Extend() {
    if (open_.empty()) return;
    Seq& s = Any();
    if (static_cast<int32_t>(s.tokens.size()) < MaxTokens()) s.tokens.push_back(Below(2));
  }
  void PinOrUnpin() {
    if (!pins_.empty() && Below(2) == 0) {
      std::swap(pins_[static_cast<size_t>(Below(static_cast<int32_t>(pins_.size())))], pins_.back());
      Both([&](KvStore* kv) { kv->Unpin(pins_.back()); });
      pins_.pop_back();
    } else if (!open_.empty() && pins_.size() < 3) {
      const std::span<const int32_t> table = kv_->PageTable(Any().id);
      if (table.empty()) return;
      const PageId page{table[static_cast<size_t>(Below(static_cast<int32_t>(table.size())))]};
      Both([&](KvStore* kv) { kv->Pin(page); });
      pins_.push_back(page);
    }
  }
  void FlushOrAbsolve() {
    if (Below(2) == 0) {
      Both([](KvStore* kv) { kv->Flush(); });
    } else {
      Both([](KvStore* kv) { kv->Absolve(); });
    }
  }

  void Replay() {
    if (Below(4) != 0) return;
    CacheEvents events;
    kv_->TakeEvents(&events);
    for (const uint64_t h : events.removed) ASSERT_EQ(std::erase(present_, h), 1u);
    present_.insert(present_.end(), events.added.begin(), events.added.end());
    std::vector<uint64_t> listed;
    kv_->ListHashes(&listed);
    ASSERT_EQ(CheckEvents(present_, listed), "");
  }

  const Shape shape_;
  std::mt19937_64 random_;
  std::unique_ptr<KvStore> kv_, twin_;
  std::vector<uint64_t> memory_, host_;  // [page or slot][offset]: the prefix that was written there
  std::vector<Seq> open_;
  std::vector<PageId> pins_;
  std::vector<uint64_t> present_;
};

TEST(KvStoreRandom, EverySequenceReadsItsOwnPrefixWhateverTheHash) {
  uint64_t evictions = 0, copies = 0, dedups = 0, restores = 0;
  for (const Shape& shape : {Shape{4, 2, 0, EvictionPolicy::kGreedyDual}, Shape{9, 1, 3, EvictionPolicy::kGreedyDual},
                             Shape{12, 2, 6, EvictionPolicy::kGreedyDual}, Shape{12, 3, 2, EvictionPolicy::kLru},
                             Shape{30, 2, 12, EvictionPolicy::kGreedyDual}}) {
    for (uint64_t seed = 1; seed <= 6; ++seed) {
      SCOPED_TRACE(::testing::Message() << "pages " << shape.pages << ", page tokens " << shape.page_tokens
                                        << ", host slots " << shape.host_slots << ", seed " << seed);
      World world(shape, seed);
      for (int op = 0; op < 1500; ++op) {
        world.RunOne();
        if (!::testing::Test::HasFatalFailure()) world.Check();
        if (::testing::Test::HasFatalFailure()) {
          world.CloseAll();
          FAIL() << "after operation " << op;
        }
      }
      world.CloseAll();
      evictions += world.stats().evictions;
      copies += world.stats().copied_pages;
      dedups += world.stats().dedup_pages;
      restores += world.stats().host_restores;
    }
  }
  // The run is worth something only if all of it happens.
  EXPECT_GT(evictions, 1000u);
  EXPECT_GT(copies, 1000u);
  EXPECT_GT(dedups, 300u);
  EXPECT_GT(restores, 300u);
}

}  // namespace
}  // namespace dunlin::kv
