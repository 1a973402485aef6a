#include "base/cache_event_log.h"

#include <algorithm>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "gmock/gmock.h"

namespace dunlin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;
using Hashes = std::vector<uint64_t>;

// What the header tells a reader to do, done naively; false = the delta does not fit.
struct Follower {
  CachePosition at;
  std::set<uint64_t> present;

  bool Apply(const CacheDelta& d) {
    if (d.snapshot) {
      if (d.offset == 0) present.clear();
      if (d.offset != at.offset && d.offset != 0) return false;
    } else if (at.offset != 0 || d.epoch != at.epoch || d.first_sequence != at.sequence + 1) {
      return false;
    }
    for (const uint64_t h : d.removed) {
      if (present.erase(h) == 0) return false;
    }
    for (const uint64_t h : d.added) {
      if (!present.insert(h).second) return false;
    }
    at = d.End();
    return true;
  }
};

void CatchUp(const CacheEventLog& log, size_t max_hashes, Follower* reader) {
  for (bool more = true; more;) {
    const CacheDelta d = log.Read(reader->at, max_hashes);
    ASSERT_LE(d.added.size() + d.removed.size(), max_hashes);
    ASSERT_TRUE(reader->Apply(d));
    more = d.more;
  }
}

TEST(CacheEventLog, AReaderAtTheEndGetsTheNextEventsAlone) {
  CacheEventLog log(8, 0, /*epoch=*/5);
  log.Append(Hashes{1, 2}, {});
  Follower reader;
  CatchUp(log, 100, &reader);
  EXPECT_EQ(reader.at, (CachePosition{5, 2, 0}));
  CacheDelta d = log.Read(reader.at, 100);
  EXPECT_FALSE(d.snapshot || d.more);
  EXPECT_EQ(d.first_sequence, 3u);
  EXPECT_EQ(d.last_sequence, 2u) << "nothing happened";
  log.Append(Hashes{3}, Hashes{1});
  d = log.Read(reader.at, 100);
  EXPECT_FALSE(d.snapshot);
  EXPECT_THAT(d.added, ElementsAre(3));
  EXPECT_THAT(d.removed, ElementsAre(1));
  EXPECT_TRUE(log.Contains(3) && !log.Contains(1));
  EXPECT_EQ(log.size(), 2u);
}

TEST(CacheEventLog, EventsThatCancelEachOtherAreLeftOut) {
  CacheEventLog log(100);
  log.Append(Hashes{7}, {});
  Follower reader;
  CatchUp(log, 100, &reader);
  log.Append(Hashes{8}, Hashes{7});
  log.Append(Hashes{7, 9}, Hashes{8});
  const CacheDelta d = log.Read(reader.at, 100);
  EXPECT_THAT(d.added, ElementsAre(9));
  EXPECT_THAT(d.removed, IsEmpty());
  EXPECT_EQ(d.last_sequence, 6u);
}

TEST(CacheEventLog, WhoIsTooLateUnknownOrAheadGetsASnapshot) {
  CacheEventLog log(2, 0, 5);
  log.Append(Hashes{1, 2, 3}, {});
  for (const CachePosition& since : {CachePosition{}, CachePosition{5, 0, 0}, CachePosition{6, 3, 0},
                                     CachePosition{5, 4, 0}, CachePosition{5, 2, 1}, CachePosition{5, 3, 3}}) {
    const CacheDelta d = log.Read(since, 100);
    EXPECT_TRUE(d.snapshot) << since.sequence;
    EXPECT_EQ(d.offset, 0u);
    EXPECT_THAT(d.added, UnorderedElementsAre(1, 2, 3));
  }
  EXPECT_FALSE(log.Read({5, 1, 0}, 100).snapshot) << "the last two events are kept";
}

TEST(CacheEventLog, ASnapshotInPartsIsOfOneMomentAndTheEventsSinceFollow) {
  CacheEventLog log(100);
  log.Append(Hashes{1, 2, 3, 4, 5}, {});
  Follower reader;
  ASSERT_TRUE(reader.Apply(log.Read(reader.at, 2)));
  EXPECT_EQ(reader.at.offset, 2u);
  log.Append(Hashes{6}, Hashes{1, 2, 3, 4, 5});
  CatchUp(log, 2, &reader);
  EXPECT_THAT(reader.present, ElementsAre(6));
}

TEST(CacheEventLog, ASnapshotInOnePartIsOfNow) {
  CacheEventLog log(100);
  log.Append(Hashes{1, 2, 3}, {});
  EXPECT_EQ(log.Read({}, 2).added.size(), 2u) << "a kept one, of then";
  log.Append({}, Hashes{1, 2});
  const CacheDelta d = log.Read({}, 2);
  EXPECT_THAT(d.added, ElementsAre(3));
  EXPECT_FALSE(d.more);
}

TEST(CacheEventLog, TwoWhoReadALongSnapshotDoNotSendEachOtherBack) {
  CacheEventLog log(100);
  Hashes many(50);
  for (size_t i = 0; i < many.size(); ++i) many[i] = i;
  log.Append(many, {});
  Follower a, b;
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(a.Apply(log.Read(a.at, 10)));
    log.Append(Hashes{100 + i}, {});
    ASSERT_TRUE(b.Apply(log.Read(b.at, 10)));
  }
  EXPECT_EQ(a.at.offset + b.at.offset, 0u) << "both have it whole after five parts";
  CatchUp(log, 10, &a);
  CatchUp(log, 10, &b);
  EXPECT_EQ(a.present.size(), 55u);
  EXPECT_EQ(a.present, b.present);
}

TEST(CacheEventLog, ContradictingEventsAreDropped) {
  CacheEventLog log(100);
  log.Append(Hashes{1, 1}, Hashes{9});
  EXPECT_EQ(log.size(), 1u);
  EXPECT_EQ(log.Read({}, 100).last_sequence, 1u);
}

TEST(CacheEventLog, AfterAResetEverybodyStartsAnew) {
  CacheEventLog log(100);
  log.Append(Hashes{1, 2}, {});
  Follower reader;
  CatchUp(log, 100, &reader);
  log.Reset();
  EXPECT_EQ(log.size(), 0u);
  log.Append(Hashes{3, 4}, {});
  EXPECT_TRUE(log.Read(reader.at, 100).snapshot) << "the numbers fit, the epoch does not";
  CatchUp(log, 100, &reader);
  EXPECT_THAT(reader.present, ElementsAre(3, 4));
}

TEST(CacheEventLog, ReadersAtAnyPaceAgreeWithASetOnceTheyCaughtUp) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto below = [&random](uint64_t n) { return random() % n; };
    CacheEventLog log(1 + below(40), below(20));
    std::set<uint64_t> model;
    std::vector<Follower> readers(3);
    for (int step = 0; step < 200; ++step) {
      Hashes added, removed;
      for (uint64_t i = below(6); i > 0; --i) {
        const uint64_t h = below(30);
        if (model.erase(h) > 0) removed.push_back(h);
      }
      for (uint64_t i = below(6); i > 0; --i) {
        const uint64_t h = below(30);
        if (model.insert(h).second) added.push_back(h);
      }
      log.Append(added, removed);
      if (below(100) == 0) {
        log.Reset();
        model.clear();
      }
      Follower& reader = readers[below(readers.size())];
      if (below(50) == 0) reader = Follower();
      if (below(2) == 0) {
        ASSERT_TRUE(reader.Apply(log.Read(reader.at, 1 + below(5)))) << step;
        continue;
      }
      CatchUp(log, 1 + below(50), &reader);
      ASSERT_EQ(reader.present, model) << step;
    }
    ASSERT_EQ(log.size(), model.size());
  }
}

TEST(CacheEventLog, AReaderBesideTheWriterEndsWithTheSameSet) {
  CacheEventLog log(64);
  std::set<uint64_t> model;
  std::thread writer([&] {
    std::mt19937_64 random(1);
    for (int i = 0; i < 3000; ++i) {
      const uint64_t h = random() % 100;
      if (model.insert(h).second) {
        log.Append(Hashes{h}, {});
      } else {
        model.erase(h);
        log.Append({}, Hashes{h});
      }
    }
  });
  Follower reader;
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(reader.Apply(log.Read(reader.at, 7)));
  writer.join();
  CatchUp(log, 7, &reader);
  EXPECT_EQ(reader.present, model);
}

}  // namespace
}  // namespace dunlin
