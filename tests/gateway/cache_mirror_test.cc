#include "gateway/cache_mirror.h"

#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "proto/cache_delta.h"

namespace dunlin::gateway {
namespace {

using Hashes = std::vector<uint64_t>;
using Outcome = CacheMirror::Outcome;

v1::CacheDelta Snapshot(uint64_t epoch, uint64_t sequence, uint64_t offset, uint64_t size, const Hashes& added) {
  v1::CacheDelta d;
  d.set_epoch(epoch);
  d.set_first_sequence(sequence);
  d.set_last_sequence(sequence);
  d.set_snapshot(true);
  d.set_offset(offset);
  d.set_snapshot_size(size);
  d.mutable_added()->Add(added.begin(), added.end());
  return d;
}

v1::CacheDelta Events(uint64_t epoch, uint64_t first, uint64_t last, const Hashes& added, const Hashes& removed) {
  v1::CacheDelta d;
  d.set_epoch(epoch);
  d.set_first_sequence(first);
  d.set_last_sequence(last);
  d.mutable_added()->Add(added.begin(), added.end());
  d.mutable_removed()->Add(removed.begin(), removed.end());
  return d;
}

TEST(CacheMirror, FollowsASnapshotInPartsAndTheEventsAfterIt) {
  CacheMirror mirror;
  EXPECT_EQ(mirror.position(), CachePosition());
  EXPECT_EQ(mirror.Apply(Snapshot(9, 5, 0, 3, {1, 2})), Outcome::kApplied);
  EXPECT_EQ(mirror.position(), (CachePosition{9, 5, 2}));
  EXPECT_EQ(mirror.Apply(Snapshot(9, 5, 2, 3, {3})), Outcome::kApplied);
  EXPECT_EQ(mirror.position(), (CachePosition{9, 5, 0}));
  EXPECT_EQ(mirror.Apply(Events(9, 6, 5, {}, {})), Outcome::kApplied) << "nothing new";
  EXPECT_EQ(mirror.Apply(Events(9, 6, 8, {4}, {1})), Outcome::kApplied);
  EXPECT_EQ(mirror.size(), 3u);
  EXPECT_TRUE(mirror.Contains(4) && !mirror.Contains(1));
}

TEST(CacheMirror, WhatDoesNotFitIsAGapThatForgetsEverything) {
  const std::vector<v1::CacheDelta> misfits = {
      Events(8, 6, 6, {4}, {}),          // another epoch
      Events(9, 7, 7, {4}, {}),          // one event is missing
      Events(9, 5, 6, {4}, {}),          // one came already
      Events(9, 6, 4, {}, {}),           // ends before it begins
      Snapshot(9, 5, 1, 2, {4}),         // the middle of a snapshot never begun
      Snapshot(9, 5, 0, 1, {4, 5}),      // more than it says
      Snapshot(9, 5, 0, 2, {}),          // a part that brings nothing
      Snapshot(9, 5, ~0ull, 2, {4, 5}),  // wraps
  };
  for (size_t i = 0; i < misfits.size(); ++i) {
    CacheMirror mirror;
    ASSERT_EQ(mirror.Apply(Snapshot(9, 5, 0, 2, {1, 2})), Outcome::kApplied);
    EXPECT_EQ(mirror.Apply(misfits[i]), Outcome::kGap) << i;
    EXPECT_EQ(mirror.position(), CachePosition()) << i;
    EXPECT_EQ(mirror.size(), 0u) << i;
  }
  CacheMirror amid;
  ASSERT_EQ(amid.Apply(Snapshot(9, 5, 0, 3, {1, 2})), Outcome::kApplied);
  EXPECT_EQ(amid.Apply(Events(9, 6, 6, {4}, {})), Outcome::kGap) << "the snapshot is not whole";
}

TEST(CacheMirror, ALargerCacheIsCutOff) {
  CacheMirror mirror(/*max_hashes=*/3);
  EXPECT_EQ(mirror.Apply(Snapshot(9, 5, 0, 5, {1, 2, 3, 4, 5})), Outcome::kApplied);
  EXPECT_EQ(mirror.size(), 3u);
  EXPECT_EQ(mirror.Apply(Events(9, 6, 8, {6}, {1, 4})), Outcome::kApplied);
  EXPECT_EQ(mirror.size(), 3u);
  EXPECT_TRUE(mirror.Contains(6));
}

// A worker's log read at any pace, with restarts, lost answers and answers that come twice; behind it a watcher of the
// mirror's own log.
TEST(CacheMirror, RandomReplaysEndWithTheWorkersSet) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto below = [&random](uint64_t n) { return random() % n; };
    CacheEventLog log(1 + below(60));
    std::set<uint64_t> model;
    CacheMirror mirror, watcher;
    for (int step = 0; step < 150; ++step) {
      Hashes added, removed;
      for (uint64_t i = below(8); i > 0; --i) {
        const uint64_t h = below(40);
        if (model.erase(h) > 0) removed.push_back(h);
      }
      for (uint64_t i = below(8); i > 0; --i) {
        const uint64_t h = below(40);
        if (model.insert(h).second) added.push_back(h);
      }
      log.Append(added, removed);
      if (below(60) == 0) {
        log.Reset();
        model.clear();
      }
      const v1::CacheDelta delta = ToProto(log.Read(mirror.position(), 1 + below(10)));
      if (below(10) == 0) continue;  // lost
      ASSERT_EQ(mirror.Apply(delta), Outcome::kApplied);
      if (below(10) == 0) mirror.Apply(delta);  // twice: no harm, or a gap
      if (below(2) == 0) {
        for (bool more = true; more;) {
          const v1::CacheDelta rest = ToProto(log.Read(mirror.position(), 1 + below(10)));
          ASSERT_EQ(mirror.Apply(rest), Outcome::kApplied);
          more = rest.more();
        }
        ASSERT_EQ(mirror.size(), model.size());
        for (const uint64_t h : model) ASSERT_TRUE(mirror.Contains(h));
      }
      watcher.Apply(ToProto(mirror.log().Read(watcher.position(), 1 + below(10))));
    }
    for (bool more = true; more;) {
      const v1::CacheDelta rest = ToProto(mirror.log().Read(watcher.position(), 5));
      ASSERT_EQ(watcher.Apply(rest), Outcome::kApplied);
      more = rest.more();
    }
    ASSERT_EQ(watcher.size(), mirror.size());
  }
}

}  // namespace
}  // namespace dunlin::gateway
