// Eviction on traces: the real store under its LRU policy equals a list, no cache beats the bound, and the policy that
// serves beats LRU where it was chosen to.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/bench/trace_replay.h"
#include "tests/support/test_data.h"

namespace dunlin::bench {
namespace {

// Below one system prompt: a few conversations that come back many times, among many requests that come once.
std::string SyntheticTrace(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&random](uint64_t n) { return random() % n; };
  std::vector<std::vector<uint64_t>> conversations(30);
  uint64_t next = 1;
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    std::vector<uint64_t> once{0};
    std::vector<uint64_t>& blocks = below(100) < 25 ? conversations[below(conversations.size())] : once;
    if (blocks.size() > 40) blocks.clear();  // this one has ended, another begins
    if (blocks.empty()) blocks.push_back(0);
    for (uint64_t n = &blocks == &once ? 4 + below(8) : 1 + below(3); n > 0; --n) blocks.push_back(next++);
    absl::StrAppend(&text, "{\"timestamp\": ", i, ", \"hash_ids\": [", absl::StrJoin(blocks, ", "), "]}\n");
  }
  return text;
}

TEST(TraceBench, TheStoresLruEqualsAListAndNothingBeatsTheBound) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Trace trace;
    ASSERT_TRUE(ParseTrace(SyntheticTrace(seed), &trace).ok());
    for (const int32_t capacity : {3, 40, 300, 1000, 5000, 40000}) {
      SCOPED_TRACE(absl::StrCat("seed ", seed, " capacity ", capacity));
      const int64_t bound = SimulateClairvoyant(trace, capacity);
      EXPECT_EQ(ReplayStore(trace, capacity, kv::EvictionPolicy::kLru), SimulateLru(trace, capacity));
      EXPECT_LE(SimulateLru(trace, capacity), bound);
      EXPECT_LE(SimulateArc(trace, capacity), bound);
      EXPECT_LE(ReplayStore(trace, capacity, kv::EvictionPolicy::kGreedyDual), bound);
    }
    // All that comes twice fits.
    EXPECT_EQ(SimulateLru(trace, 40000), trace.total - trace.num_blocks());
    EXPECT_EQ(SimulateClairvoyant(trace, 40000), trace.total - trace.num_blocks());
  }
}

TEST(TraceBench, BeatsLruWhereConversationsJustDoNotFit) {
  Trace trace;
  ASSERT_TRUE(ParseTrace(SyntheticTrace(7), &trace).ok());
  for (const int32_t capacity : {100, 300, 600, 1000, 2000, 4000}) {
    const TraceRow row = ReplayTrace(trace, capacity);
    EXPECT_GT(row.ours, (capacity == 600 || capacity == 1000 ? 1.2 : 0.98) * row.lru) << capacity;
  }
}

TEST(TraceBench, MeetsItsRatiosOnAnHourOfChat) {
  const std::string path = testing::SharedDataPath("traces/mooncake_conversation.jsonl.gz");
  if (path.empty()) GTEST_SKIP() << "traces/mooncake_conversation.jsonl.gz is not there";
  Trace trace;
  ASSERT_TRUE(ReadTrace(path, &trace).ok());
  ASSERT_EQ(trace.requests.size(), 12031u);
  ASSERT_EQ(trace.total, 288500);
  std::vector<TraceRow> rows;
  for (const int32_t capacity : {500, 1000, 2000, 5000, 10000, 20000, 50000}) {
    rows.push_back(ReplayTrace(trace, capacity));
    const double wanted = capacity == 2000 || capacity == 5000 ? 1.3 : capacity == 10000 ? 1.08 : 0.98;
    EXPECT_GE(rows.back().ours, wanted * rows.back().lru) << capacity;
    EXPECT_LE(rows.back().ours, rows.back().clairvoyant) << capacity;
  }
  PrintTraceRows(rows, std::cout);
}

TEST(TraceBench, BadTracesAreRefusedWithTheLine) {
  for (const std::string text :
       {"{\"hash_ids\": [1]}\nnonsense\n", "{\"hash_ids\": [1]}\n{}\n", "{\"hash_ids\": [1]}\n{\"hash_ids\": [-1]}",
        "{\"hash_ids\": [1]}\n{\"hash_ids\": 3}", "{\"hash_ids\": [1]}\n{\"hash_ids\": [2, 1]}",
        "{\"hash_ids\": [1]}\n{\"hash_ids\": [1, 1]}"}) {
    Trace trace;
    const absl::Status status = ParseTrace(text, &trace);
    EXPECT_FALSE(status.ok()) << text;
    EXPECT_THAT(std::string(status.message()), ::testing::StartsWith("line 2: ")) << text;
  }
  Trace trace;
  EXPECT_EQ(ReadTrace("/nowhere/trace.jsonl", &trace).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace dunlin::bench
