#include "worker/engine/engine_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"
#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using worker::EngineOptions;
using worker::FakeRunnerOptions;
using worker::FinishCause;
using worker::NewSequence;

FakeRunnerOptions SmallPages() {
  FakeRunnerOptions o;
  o.page_tokens = 4;
  o.num_pages = 32;
  o.max_model_len = 64;
  o.max_rows = 8;
  return o;
}

TEST(EngineCore, GeneratesWhatTheModelSaysAndEndsAtMaxTokens) {
  CoreHarness h;
  const std::vector<int32_t> prompt = Prompt(20, 1);
  auto client = h.Submit(Greedy(prompt, 12));
  h.RunToEnd();
  ASSERT_TRUE(client->end.has_value());
  EXPECT_OK(client->end->status);
  EXPECT_EQ(client->end->cause, FinishCause::kLength);
  EXPECT_EQ(client->tokens, h.runner.Greedy(prompt, 12));
  EXPECT_EQ(client->end->prompt_tokens, 20u);
  EXPECT_EQ(client->end->completion_tokens, 12u);
  EXPECT_EQ(client->end->timing.kv_pages_peak, 2u);  // 31 tokens in pages of 16
  EXPECT_GT(client->end->timing.bytes_read, 0u);
  EXPECT_EQ(h.held_pages(), 0);
}

TEST(EngineCore, ASingleTokenPromptGenerates) {
  CoreHarness h;
  auto client = h.Submit(Greedy({5}, 3));
  h.RunToEnd();
  EXPECT_EQ(client->tokens, h.runner.Greedy(std::vector<int32_t>{5}, 3));
}

TEST(EngineCore, ThirtyTwoMixedSequencesGiveTogetherWhatEachGivesAlone) {
  FakeRunnerOptions o;
  o.max_rows = 40;
  o.num_pages = 100;  // not everybody fits at once
  o.page_tokens = 4;
  CoreHarness h(o);
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < 32; ++i) {
    prompts.push_back(Prompt(1 + i * i % 90, i));
    h.Submit(Greedy(prompts.back(), 1 + i * 7 % 30));
    if (i % 5 == 0) h.Step();
  }
  h.RunToEnd();
  for (int i = 0; i < 32; ++i) {
    const Client& c = *h.clients[static_cast<size_t>(i)];
    ASSERT_TRUE(c.end.has_value()) << i;
    EXPECT_EQ(c.tokens, h.runner.Greedy(prompts[static_cast<size_t>(i)], 1 + i * 7 % 30)) << i;
  }
  EXPECT_EQ(h.held_pages(), 0);
}

TEST(EngineCore, CancellingAtEveryStepFreesEveryPage) {
  // 30 prompt tokens in chunks of at most 8, then 20 tokens: cancelled before the first step, in the chunked prefill,
  // in the generation, and (too late) after the end.
  bool cancelled_in_prefill = false, cancelled_in_decode = false, too_late = false;
  for (int at = 0; at < 30; ++at) {
    CoreHarness h(SmallPages());
    auto client = h.Submit(Greedy(Prompt(30, at), 20));
    auto other = h.Submit(Greedy(Prompt(9, at + 1), 25));
    for (int i = 0; i < at; ++i) h.Step();
    const bool over = client->end.has_value();
    client->stream->Cancel();
    h.Step();
    ASSERT_TRUE(client->end.has_value()) << "cancelled after step " << at;
    if (!over) {
      EXPECT_EQ(client->end->cause, FinishCause::kCancelled);
      EXPECT_THAT(client->end->status, StatusIs(absl::StatusCode::kCancelled, ::testing::_));
      (client->tokens.empty() ? cancelled_in_prefill : cancelled_in_decode) = true;
      // What remains held is the other's alone.
      EXPECT_LE(h.held_pages(), (9 + 25 + 3) / 4);
    } else {
      too_late = true;
    }
    h.RunToEnd();
    EXPECT_EQ(h.held_pages(), 0) << "cancelled after step " << at;
    EXPECT_EQ(other->tokens, h.runner.Greedy(Prompt(9, at + 1), 25)) << "cancelled after step " << at;
  }
  EXPECT_TRUE(cancelled_in_prefill && cancelled_in_decode && too_late);
}

TEST(EngineCore, ACancelledSequenceLeavesTheQueueWithoutEverRunning) {
  FakeRunnerOptions o = SmallPages();
  o.num_pages = 16;
  CoreHarness h(o);
  auto runs = h.Submit(Greedy(Prompt(10, 1), 50));  // all 16 pages promised
  auto waits = h.Submit(Greedy(Prompt(10, 2), 50));
  h.Step();
  EXPECT_TRUE(runs->scheduled);
  EXPECT_FALSE(waits->scheduled);
  waits->stream->Cancel();
  h.Step();
  ASSERT_TRUE(waits->end.has_value());
  EXPECT_EQ(waits->end->cause, FinishCause::kCancelled);
  EXPECT_FALSE(waits->scheduled);
  EXPECT_EQ(h.core->stats().waiting, 0);
  h.RunToEnd();
  EXPECT_EQ(runs->tokens, h.runner.Greedy(Prompt(10, 1), 50));
}

}  // namespace
}  // namespace dunlin::testing
