// Running ahead: the next step is submitted before the result of this one is looked at, and nobody can tell by what
// they are told. The random and property tests of the engine do the same with everything at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/engine/cache_mirror.h"
#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using worker::EngineCore;
using worker::EngineOptions;
using worker::FakeRunnerOptions;
using worker::FinishCause;
using worker::NewSequence;
using worker::StepBatch;
using worker::StepResult;

FakeRunnerOptions SmallPages(int32_t num_pages = 64) {
  FakeRunnerOptions o;
  o.page_tokens = 4;
  o.num_pages = num_pages;
  o.max_rows = 32;
  return o;
}

// Notes what the engine asks of the runner: "S" and "W" for a submitted and an awaited step, "M" for moves.
class NotingRunner final : public worker::ModelRunner {
 public:
  explicit NotingRunner(const FakeRunnerOptions& options) : model(options) {}
  const worker::RunnerInfo& info() const override { return model.info(); }
  absl::Status Step(const StepBatch& batch, StepResult* result) override { return model.Step(batch, result); }
  absl::Status Submit(const StepBatch& batch) override {
    notes += "S";
    for (const int32_t output : batch.token_from_previous) unknown_tokens += output >= 0 ? 1 : 0;
    return model.Submit(batch);
  }
  absl::Status Wait(StepResult* result) override {
    notes += "W";
    return model.Wait(result);
  }
  absl::Status MovePages(std::span<const kv::PageMove> moves, std::vector<int32_t>* failed) override {
    notes += "M";
    return model.MovePages(moves, failed);
  }

  worker::FakeRunner model;
  std::string notes;
  int unknown_tokens = 0;
};

TEST(EngineAhead, TheNextStepIsSubmittedBeforeTheResultOfThisOneIsWaitedFor) {
  NotingRunner runner(Ahead({}));
  FakeClock clock;
  auto core = EngineCore::Create({}, &runner, &clock, nullptr);
  ASSERT_TRUE(core.ok());
  Client client;
  NewSequence s = Greedy(Prompt(9, 1), 6);
  s.stream = client.stream;
  (*core)->Add(std::move(s), clock.Now());
  std::vector<size_t> tokens;
  while ((*core)->Step()) {
    (*core)->DeliverEnds();
    client.Read();
    tokens.push_back(client.tokens.size());
  }
  EXPECT_EQ(runner.notes, "SSWSWSWSWSWW");
  EXPECT_EQ(tokens, (std::vector<size_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(runner.unknown_tokens, 5);
  EXPECT_EQ(client.tokens, runner.model.Greedy(Prompt(9, 1), 6));
  EXPECT_EQ((*core)->stats().steps, 6u);
  EXPECT_EQ((*core)->stats().steps_ahead, 5u);
  EXPECT_EQ((*core)->stats().void_rows, 0u) << "nobody runs ahead of a limit";
}

TEST(EngineAhead, TheEndIsWhereItIsWithoutItAndTheRowBehindItIsDropped) {
  for (int at = 10; at < 30; ++at) {
    for (const bool stop_token : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "length " << at << (stop_token ? ", a stop token" : ", end of generation"));
      FakeRunnerOptions o = SmallPages();
      o.next_token = [at](uint64_t hash, int32_t length) {
        return length == at ? 50 : static_cast<int32_t>(hash % 50);
      };
      EngineOptions e;
      if (!stop_token) e.end_of_generation = {50};
      CoreHarness h(Ahead(o), e);
      NewSequence s = Greedy(Prompt(9, 2), 60);
      if (stop_token) s.stop_tokens = {50};
      const auto client = h.Submit(std::move(s));
      h.RunToEnd();
      EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(9, 2), at - 9 + 1));
      EXPECT_EQ(client->end->cause, stop_token ? FinishCause::kStopToken : FinishCause::kEos);
      EXPECT_EQ(client->end->completion_tokens, client->tokens.size());
      EXPECT_EQ(h.core->stats().generated_tokens, client->tokens.size());
      EXPECT_EQ(h.core->stats().void_rows, 1u);
      EXPECT_EQ(h.held_pages(), 0);
      EXPECT_EQ(h.core->CheckIdle(), "");
    }
  }
}

TEST(EngineAhead, ACancelledSequenceEndsAtOnceAndItsPagesGoToOthersWhileItsRowIsInFlight) {
  // The pool holds one of them.
  FakeRunnerOptions o = SmallPages(6);
  o.max_model_len = 24;
  EngineOptions e;
  e.promise = worker::AdmissionPromise::kWorstCase;
  e.enable_prefix_caching = false;
  CoreHarness h(Ahead(o), e);
  const auto first = h.Submit(Greedy(Prompt(9, 1), 15));
  const auto second = h.Submit(Greedy(Prompt(9, 2), 15));
  for (int i = 0; i < 4; ++i) h.Step();
  ASSERT_EQ(first->tokens.size(), 3u);
  first->stream->Cancel();
  h.Step();
  EXPECT_EQ(first->end->cause, FinishCause::kCancelled);
  EXPECT_EQ(first->end->completion_tokens, 3u);
  EXPECT_TRUE(second->scheduled) << "in the step after the cancellation";
  h.RunToEnd();
  EXPECT_EQ(second->tokens, h.runner.Greedy(Prompt(9, 2), 15));
  EXPECT_EQ(h.core->stats().void_rows, 1u);
  EXPECT_EQ(h.core->CheckIdle(), "");
}

TEST(EngineAhead, APromptsNextChunkFollowsWhileTheLastOneRunsAndProgressIsToldInOrder) {
  std::vector<uint32_t> progress[2];
  for (const bool ahead : {false, true}) {
    FakeRunnerOptions o = SmallPages();
    o.max_rows = 16;
    CoreHarness h(ahead ? Ahead(o) : o);
    NewSequence s = Greedy(Prompt(100, 3), 3);
    s.num_prompt_logprobs = 0;
    const auto client = h.Submit(std::move(s));
    while (!client->end.has_value()) {
      h.Step();
      const uint32_t done = client->prefill_done_tokens;
      if (progress[ahead].empty() || progress[ahead].back() != done) progress[ahead].push_back(done);
    }
    EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(100, 3), 3));
    EXPECT_EQ(client->prompt_logprobs.size(), 99u);
    EXPECT_EQ(h.core->stats().steps_ahead, ahead ? h.core->stats().steps - 1 : 0);
    h.RunToEnd();
  }
  progress[1].erase(progress[1].begin());  // before the first result
  EXPECT_EQ(progress[0], progress[1]);
  EXPECT_EQ(progress[1], (std::vector<uint32_t>{16, 32, 48, 64, 80, 96}));
}

TEST(EngineAhead, NothingIsDrawnAfterAPromptThatIsOnlyJudged) {
  CoreHarness h(Ahead(SmallPages()));
  NewSequence s = Greedy(Prompt(60, 3), 0);
  s.num_prompt_logprobs = 2;
  const auto client = h.Submit(std::move(s));
  h.RunToEnd();
  EXPECT_EQ(client->end->cause, FinishCause::kLength);
  EXPECT_EQ(client->prompt_logprobs.size(), 59u);
  EXPECT_TRUE(client->tokens.empty());
}

TEST(EngineAhead, ThePrefixIndexHoldsExactlyThePagesThatItHoldsWithoutItAndTwinsAreComputedOnce) {
  uint64_t void_rows = 0;
  for (int salt = 0; salt < 12; ++salt) {
    SCOPED_TRACE(salt);
    CacheMirror mirrors[2];
    uint64_t computed[2], deduplicated[2];
    for (const bool ahead : {false, true}) {
      FakeRunnerOptions o = SmallPages(400);
      o.page_tokens = 2;
      EngineOptions e;
      e.record_cache_events = true;
      e.end_of_generation = {11, 60, 61, 62, 63};
      CoreHarness h(ahead ? Ahead(o) : o, e, &mirrors[ahead]);
      for (int i = 0; i < 6; ++i) h.Submit(Greedy(Prompt(40, salt + i / 2), 20 + i % 2));  // three pairs of twins
      h.RunToEnd();
      computed[ahead] = h.core->stats().prompt_tokens;
      deduplicated[ahead] = h.core->stats().dedup_pages;
      void_rows += h.core->stats().void_rows;
    }
    EXPECT_EQ(mirrors[0].hashes, mirrors[1].hashes);
    EXPECT_EQ(computed[0], computed[1]);
    EXPECT_LT(computed[1], 6u * 40);
    EXPECT_EQ(deduplicated[0], deduplicated[1]);
  }
  EXPECT_GT(void_rows, 20u);
}

TEST(EngineAhead, WhatNeedsTheTokenWaitsForIt) {
  FakeRunnerOptions o = SmallPages();
  o.next_token = [](uint64_t, int32_t length) { return length % 5; };
  EngineOptions e;
  e.num_speculative_tokens = 4;
  e.drafting = worker::Drafting::kAlways;
  {
    CoreHarness h(Ahead(o));
    NewSequence s = Greedy(Prompt(9, 1), 40);
    s.sampling.presence_penalty = 0.5f;
    const auto client = h.Submit(std::move(s));
    h.RunToEnd();
    EXPECT_EQ(client->tokens.size(), 40u);
    EXPECT_EQ(h.core->stats().steps_ahead, 0u) << "a draw with penalties depends on the token before it";
  }
  {
    CoreHarness h(Ahead(o), e);
    const auto client = h.Submit(Greedy(Prompt(9, 1), 100));
    h.RunToEnd();
    EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(9, 1), 100));
    EXPECT_GT(h.core->stats().accepted_draft_tokens, 60u) << "drafts come back as soon as there is something to guess";
    EXPECT_GT(h.core->stats().steps_ahead, 0u) << "until then it runs ahead";
  }
}

// A pool that forces one of two to give way: that waits until nothing is in flight, and happens.
TEST(EngineAhead, NobodyIsPreemptedWhileAStepIsInFlight) {
  FakeRunnerOptions o = SmallPages(10);
  o.max_model_len = 40;
  EngineOptions e;
  e.promise = worker::AdmissionPromise::kTokens;
  CoreHarness h(Ahead(o), e);
  for (int i = 0; i < 3; ++i) h.Submit(Greedy(Prompt(7, i), 30));
  h.RunToEnd();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(h.clients[static_cast<size_t>(i)]->tokens, h.runner.Greedy(Prompt(7, i), 30));
  }
  EXPECT_GE(h.core->stats().preemptions, 2u);
  EXPECT_GT(h.core->stats().steps_ahead, h.core->stats().steps / 2);
  EXPECT_EQ(h.core->CheckIdle(), "");
}

// A lost device shows at the result, or when the next step is submitted.
TEST(EngineAhead, ALostDeviceEndsEverySequenceAndWhatItWroteIsSetAside) {
  for (int where = 0; where < 2; ++where) {
    SCOPED_TRACE(where);
    bool lost = false;
    FakeRunnerOptions o = SmallPages();
    o.before_step = [&lost](const StepBatch&) { return lost ? absl::InternalError("scripted") : absl::OkStatus(); };
    o.max_steps_in_flight = 2;
    o.executes_at_submit = [where] { return where == 1; };
    CoreHarness h(o);
    for (int i = 0; i < 3; ++i) h.Submit(Greedy(Prompt(9 + i, i), 40));
    for (int i = 0; i < 6; ++i) h.Step();
    lost = true;
    h.Step();
    for (const auto& c : h.clients) {
      ASSERT_TRUE(c->end.has_value());
      EXPECT_EQ(c->end->status.code(), absl::StatusCode::kUnavailable);
    }
    const worker::EngineStats s = h.core->stats();
    EXPECT_TRUE(s.lost_device);
    EXPECT_EQ(s.held_pages, 0);
    EXPECT_GE(s.quarantine_pages, 3) << "one page of each sequence was being written";
    EXPECT_LE(s.quarantine_pages, 6);
    EXPECT_EQ(s.blank_pages + s.quarantine_pages, s.total_pages);
    EXPECT_FALSE(h.Step());
    EXPECT_EQ(h.core->CheckIdle(), "");
  }
}

TEST(EngineAhead, TheRunnerIsQuietWhenTheEngineIsGone) {
  NotingRunner runner(Ahead({}));
  FakeClock clock;
  auto core = EngineCore::Create({}, &runner, &clock, nullptr);
  ASSERT_TRUE(core.ok());
  NewSequence s = Greedy(Prompt(9, 1), 6);
  s.stream = std::make_shared<worker::TokenStream>();
  (*core)->Add(std::move(s), clock.Now());
  for (int i = 0; i < 3; ++i) (*core)->Step();
  EXPECT_EQ(runner.notes, "SSWSW");
  core->reset();
  EXPECT_EQ(runner.notes, "SSWSWW");
}

}  // namespace
}  // namespace dunlin::testing
