// Every flag arrives where it works.
#include "worker/service/settings.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "proto/config_flags.h"
#include "tests/support/status_matchers.h"

namespace dunlin::worker {
namespace {

using ::dunlin::testing::StatusIs;
using ::testing::HasSubstr;

dunlin::v1::ServerConfig Config(const std::vector<std::string>& flags) {
  absl::StatusOr<ParsedConfig> parsed = ParseArgs(flags, kWorkerFlags);
  EXPECT_OK(parsed);
  return parsed->config;
}

TEST(Settings, TheRunnersFlagsArrive) {
  ASSERT_OK_AND_ASSIGN(
      const RunnerOptions o,
      MakeRunnerOptions(Config({"--model=m", "--block-size=32", "--max-num-seqs=3", "--max-num-batched-tokens=77",
                                "--threads=5", "--gpu-memory-utilization=0.25", "--max-model-len=2k",
                                "--kv-cache-memory-bytes=3M", "--swap-space-bytes=4k", "--swap-directory=/d", "--enforce-eager",
                                "--max-seq-len-to-capture=3K"})));
  EXPECT_EQ(o.page_tokens, 32);
  EXPECT_EQ(o.max_num_seqs, 3);
  EXPECT_EQ(o.max_rows, 77);
  EXPECT_EQ(o.threads, 5);
  EXPECT_EQ(o.memory_utilization, 0.25);
  EXPECT_EQ(o.max_model_len, 2000);
  EXPECT_EQ(o.kv_bytes, 3u << 20);
  EXPECT_EQ(o.swap_bytes, 4000u);
  EXPECT_EQ(o.swap_directory, "/d");
  EXPECT_TRUE(o.enforce_eager);
  EXPECT_EQ(o.max_graph_context, 3072);
  ASSERT_OK_AND_ASSIGN(const RunnerOptions plain, MakeRunnerOptions(Config({"--model=m"})));
  EXPECT_EQ(plain.swap_bytes, 0u);
  EXPECT_EQ(plain.kv_bytes, 0u);
  EXPECT_FALSE(plain.enforce_eager);
  EXPECT_EQ(plain.max_graph_context, 0) << "no limit";
}

TEST(Settings, TheEnginesFlagsArrive) {
  const EngineOptions o = MakeEngineOptions(
      Config({"--max-num-seqs=3", "--max-num-batched-tokens=77", "--num-scheduler-steps=8",
              "--inter-token-target-ms=40", "--num-speculative-tokens=7", "--no-enable-prefix-caching"}));
  EXPECT_EQ(o.max_num_seqs, 3);
  EXPECT_EQ(o.max_num_batched_tokens, 77);
  EXPECT_EQ(o.num_scheduler_steps, 8);
  EXPECT_EQ(o.inter_token_target, absl::Milliseconds(40));
  EXPECT_EQ(o.num_speculative_tokens, 7);
  EXPECT_FALSE(o.enable_prefix_caching);
  EXPECT_TRUE(o.record_cache_events);
  const EngineOptions plain = MakeEngineOptions(Config({}));
  EXPECT_EQ(plain.num_scheduler_steps, 1);
  EXPECT_EQ(plain.num_speculative_tokens, 4);
  EXPECT_EQ(plain.inter_token_target, absl::ZeroDuration());
  EXPECT_TRUE(plain.enable_prefix_caching);
}

TEST(Settings, WhatCannotApplyIsRefusedByName) {
  EXPECT_THAT(MakeRunnerOptions(Config({"--model=m", "--swap-directory=/d"})),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--swap-directory")));
  EXPECT_THAT(MakeRunnerOptions(Config({})), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--model")));
}

}  // namespace
}  // namespace dunlin::worker
