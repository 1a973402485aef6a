#include "worker/service/write_pump.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace dunlin::worker {
namespace {

using Found = WritePump::Found;
using Next = WritePump::Next;

TEST(WritePump, NewsStartsOneBuilderOnly) {
  WritePump pump;
  EXPECT_TRUE(pump.OnNews());
  EXPECT_FALSE(pump.OnNews()) << "somebody is building";
  EXPECT_EQ(pump.Built(Found::kNothing), Next::kBuildAgain) << "news came while building";
  EXPECT_EQ(pump.Built(Found::kNothing), Next::kWait);
  EXPECT_TRUE(pump.OnNews()) << "idle again";
}

TEST(WritePump, DuringAWriteNewsWaitsForItsEnd) {
  WritePump pump;
  ASSERT_TRUE(pump.OnNews());
  ASSERT_EQ(pump.Built(Found::kMessage), Next::kWrite);
  EXPECT_FALSE(pump.OnNews());
  pump.OnWriteDone();
  EXPECT_EQ(pump.Built(Found::kMessage), Next::kWrite);
  pump.OnWriteDone();
  EXPECT_EQ(pump.Built(Found::kNothing), Next::kWait) << "a write's end looked already";
}

TEST(WritePump, NothingStartsAfterTheEnd) {
  WritePump pump;
  ASSERT_TRUE(pump.OnNews());
  ASSERT_FALSE(pump.OnNews());
  EXPECT_EQ(pump.Built(Found::kEnd), Next::kFinish);
  EXPECT_FALSE(pump.OnNews());
}

using WritePumpDeathTest = ::testing::Test;
TEST(WritePumpDeathTest, MisuseIsCaught) {
  WritePump pump;
  EXPECT_DEATH(pump.OnWriteDone(), "a write ended that was not begun");
  EXPECT_DEATH((void)pump.Built(Found::kNothing), "not asked to");
}

// Producers announce items; whoever is told to build takes them. Every item is taken, no two threads build at once, and
// the end comes once.
TEST(WritePump, ManyProducersLoseNothingAndNeverBuildTwiceAtOnce) {
  constexpr int kProducers = 4;
  constexpr int kItems = 5000;
  WritePump pump;
  std::atomic<int> available{0};
  std::atomic<int> builders{0};
  std::atomic<int> finishes{0};
  int taken = 0;  // the builder's
  const auto build = [&] {
    while (true) {
      EXPECT_EQ(builders.fetch_add(1), 0);
      const int got = available.exchange(0);
      taken += got;
      const Found found = got > 0 ? Found::kMessage : taken == kProducers * kItems ? Found::kEnd : Found::kNothing;
      builders.fetch_sub(1);
      switch (pump.Built(found)) {
        case Next::kWrite:
          pump.OnWriteDone();
          continue;
        case Next::kFinish:
          finishes.fetch_add(1);
          return;
        case Next::kWait:
          return;
        case Next::kBuildAgain:
          continue;
      }
    }
  };
  std::vector<std::thread> producers;
  for (int p = 0; p < kProducers; ++p) {
    producers.emplace_back([&] {
      for (int i = 0; i < kItems; ++i) {
        available.fetch_add(1);
        if (pump.OnNews()) build();
      }
    });
  }
  for (std::thread& t : producers) t.join();
  EXPECT_EQ(taken, kProducers * kItems);
  EXPECT_EQ(finishes.load(), 1);
}

}  // namespace
}  // namespace dunlin::worker
