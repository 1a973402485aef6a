#include "kvstore/frequency_sketch.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <random>

namespace dunlin::kv {
namespace {

TEST(FrequencySketch, RemembersTheGreatestCountAndNothingItWasNotTold) {
  FrequencySketch sketch(100);
  EXPECT_EQ(sketch.Count(42), 0);
  sketch.Remember(42, 5);
  sketch.Remember(42, 3);
  EXPECT_EQ(sketch.Count(42), 5);
  sketch.Remember(42, 1000);
  EXPECT_EQ(sketch.Count(42), 255);
}

// While few have left, hardly any prefix is mistaken for another, and none is underrated by more than what decayed.
TEST(FrequencySketch, IsRarelyWrongWhileItIsNotFull) {
  std::mt19937_64 random(1);
  FrequencySketch sketch(64);  // 4,096 counters
  std::map<uint64_t, int> told;
  for (int i = 0; i < 400; ++i) {
    const uint64_t hash = random();
    told[hash] = 2 + static_cast<int>(random() % 10);
    sketch.Remember(hash, told[hash]);
  }
  int off = 0;
  for (const auto& [hash, count] : told) {
    EXPECT_GE(sketch.Count(hash), count - 1);
    off += sketch.Count(hash) != count ? 1 : 0;
  }
  EXPECT_LT(off, 40);
  int strangers = 0;
  for (int i = 0; i < 1000; ++i) strangers += sketch.Count(random()) > 0 ? 1 : 0;
  EXPECT_LT(strangers, 80);
}

TEST(FrequencySketch, ThePastFades) {
  FrequencySketch sketch(1);  // 64 counters
  sketch.Remember(7, 2);
  for (int i = 0; i < 64 * 8 * 2; ++i) sketch.Remember(8, 1);
  EXPECT_LE(sketch.Count(7), 1);
}

}  // namespace
}  // namespace dunlin::kv
