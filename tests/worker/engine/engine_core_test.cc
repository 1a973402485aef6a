// The rules of worker/engine/CONTRACT.md, one after another, on one engine core and the fake runner. Longer than 500
// lines because the cases share that harness and are read beside the contract.
#include "worker/engine/engine_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// What the default fake model generates.
std::vector<int32_t> GreedyOf(const std::vector<int32_t>& prompt, int count) {
  return worker::FakeRunner({}).Greedy(prompt, count);
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

TEST(EngineCore, AShortPromptGetsItsFirstTokenWhileLongOnesPrefill) {
  FakeRunnerOptions o;
  o.max_rows = 256;
  o.max_model_len = 5000;
  o.num_pages = 2000;
  o.page_tokens = 16;
  CoreHarness h(o);
  for (int i = 0; i < 4; ++i) h.Submit(Greedy(Prompt(4000, i), 4));
  for (int i = 0; i < 3; ++i) h.Step();
  auto brief = h.Submit(Greedy(Prompt(100, 9), 4));
  h.Step();
  EXPECT_FALSE(brief->tokens.empty());
  EXPECT_TRUE(h.clients[0]->tokens.empty());
}

TEST(EngineCore, ADeadlineEndsAGenerationWithItsStatus) {
  CoreHarness h;
  NewSequence s = Greedy(Prompt(5, 1), 100);
  s.deadline = h.clock.Now() + absl::Milliseconds(7);
  auto client = h.Submit(std::move(s));
  h.RunToEnd();
  ASSERT_TRUE(client->end.has_value());
  EXPECT_THAT(client->end->status, StatusIs(absl::StatusCode::kDeadlineExceeded, ::testing::HasSubstr("7 generated")));
  EXPECT_EQ(client->end->completion_tokens, 7u);
  EXPECT_EQ(h.held_pages(), 0);
}

TEST(EngineCore, MaxTimeEndsAGenerationWithStatusOk) {
  CoreHarness h;
  NewSequence s = Greedy(Prompt(5, 1), 100);
  s.max_time = absl::Milliseconds(3);
  auto client = h.Submit(std::move(s));
  h.RunToEnd();
  ASSERT_TRUE(client->end.has_value());
  EXPECT_OK(client->end->status);
  EXPECT_EQ(client->end->cause, FinishCause::kMaxTime);
  EXPECT_EQ(client->tokens.size(), 3u);
}

TEST(EngineCore, ADeadlineAlsoEndsASequenceThatWaits) {
  FakeRunnerOptions o = SmallPages();
  o.num_pages = 16;
  CoreHarness h(o);
  h.Submit(Greedy(Prompt(10, 1), 50));
  h.Step();
  NewSequence s = Greedy(Prompt(10, 2), 50);
  s.deadline = h.clock.Now() + absl::Milliseconds(4);
  auto waits = h.Submit(std::move(s));
  for (int i = 0; i < 5; ++i) h.Step();
  ASSERT_TRUE(waits->end.has_value());
  EXPECT_FALSE(waits->scheduled);
  EXPECT_THAT(waits->end->status, StatusIs(absl::StatusCode::kDeadlineExceeded, ::testing::_));
  EXPECT_EQ(waits->end->timing.queue, absl::Milliseconds(4));
}

TEST(EngineCore, AnEndOfGenerationTokenEndsAndIgnoreEosDoesNot) {
  const std::vector<int32_t> prompt = Prompt(6, 3);
  const std::vector<int32_t> expected = GreedyOf(prompt, 20);
  EngineOptions options;
  options.end_of_generation = {expected[4]};
  const auto first = std::find(expected.begin(), expected.end(), expected[4]) - expected.begin();
  CoreHarness h({}, options);
  auto stops = h.Submit(Greedy(prompt, 20));
  NewSequence on = Greedy(prompt, 20);
  on.ignore_eos = true;
  auto goes_on = h.Submit(std::move(on));
  h.RunToEnd();
  EXPECT_EQ(stops->end->cause, FinishCause::kEos);
  EXPECT_EQ(stops->tokens.size(), static_cast<size_t>(first) + 1) << "the ending token is part of the output";
  EXPECT_EQ(goes_on->end->cause, FinishCause::kLength);
  EXPECT_EQ(goes_on->tokens, expected);
}

TEST(EngineCore, AStopTokenEndsAndIsNamed) {
  const std::vector<int32_t> prompt = Prompt(6, 3);
  const int32_t stop = GreedyOf(prompt, 8)[7];
  CoreHarness h;
  NewSequence s = Greedy(prompt, 20);
  s.stop_tokens = {stop};
  auto client = h.Submit(std::move(s));
  h.RunToEnd();
  EXPECT_EQ(client->end->cause, FinishCause::kStopToken);
  EXPECT_EQ(client->end->stop_token, stop);
  EXPECT_EQ(client->tokens.back(), stop);
}

TEST(EngineCore, NothingEndsBeforeMinTokens) {
  const std::vector<int32_t> prompt = Prompt(6, 3);
  EngineOptions options;
  for (int32_t t = 0; t < 97; t += 2) options.end_of_generation.push_back(t);  // every even token
  CoreHarness h({}, options);
  NewSequence s = Greedy(prompt, 40);
  s.min_tokens = 15;
  auto client = h.Submit(std::move(s));
  h.RunToEnd();
  EXPECT_EQ(client->end->cause, FinishCause::kEos);
  ASSERT_GT(client->tokens.size(), 15u);
  for (size_t i = 0; i < 15; ++i) EXPECT_EQ(client->tokens[i] % 2, 1) << i;
  EXPECT_EQ(client->tokens.back() % 2, 0);
}

TEST(EngineCore, AnEndingTokenDrawnForLackOfAnyOtherDoesNotEndBeforeMinTokens) {
  EngineOptions options;
  options.end_of_generation = {7};
  FakeRunnerOptions o;
  o.next_token = [](uint64_t, int32_t) { return 7; };
  CoreHarness h(o, options);
  NewSequence s = Greedy(Prompt(6, 3), 9);
  s.min_tokens = 4;
  s.sampling.allowed_tokens = {7};  // until then everything is banned, and the likeliest raw token is drawn: 7
  auto client = h.Submit(std::move(s));
  NewSequence only = Greedy(Prompt(6, 3), 9);
  only.sampling.allowed_tokens = {7};
  auto ends = h.Submit(std::move(only));
  h.RunToEnd();
  EXPECT_EQ(client->tokens, std::vector<int32_t>(5, 7));
  EXPECT_EQ(client->end->cause, FinishCause::kEos);
  EXPECT_EQ(ends->tokens, std::vector<int32_t>{7});
}

TEST(EngineCore, TheContextsEndIsNamedWhenMoreWasAskedThanItHolds) {
  CoreHarness h(SmallPages());  // 64 tokens
  auto full = h.Submit(Greedy(Prompt(60, 1), 5));
  auto exact = h.Submit(Greedy(Prompt(60, 1), 4));
  h.RunToEnd();
  EXPECT_EQ(full->end->cause, FinishCause::kContextFull);
  EXPECT_EQ(full->tokens.size(), 4u);
  EXPECT_EQ(exact->end->cause, FinishCause::kLength);
  EXPECT_EQ(exact->tokens, full->tokens);
}

TEST(EngineCore, WhatCannotBeServedIsRefusedWithItsReason) {
  CoreHarness h(SmallPages());
  const auto check = [&h](NewSequence s) {
    s.stream = std::make_shared<worker::TokenStream>();
    return h.core->Check(s);
  };
  using absl::StatusCode;
  using ::testing::AllOf;
  using ::testing::HasSubstr;
  EXPECT_OK(check(Greedy(Prompt(63, 1), 1)));
  EXPECT_THAT(check(Greedy(Prompt(64, 1), 1)),
              StatusIs(StatusCode::kOutOfRange, AllOf(HasSubstr("64"), HasSubstr("63"))));
  EXPECT_THAT(check(Greedy({}, 1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("empty")));
  EXPECT_THAT(check(Greedy({97}, 1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("97")));
  EXPECT_THAT(check(Greedy({-1}, 1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("-1")));
  EXPECT_THAT(check(Greedy({1}, -1)), StatusIs(StatusCode::kInvalidArgument, HasSubstr("max_tokens")));
  const auto with = [](auto change) {
    NewSequence s = Greedy({1}, 4);
    change(&s);
    return s;
  };
  EXPECT_THAT(check(with([](NewSequence* s) { s->sampling.temperature = NAN; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("temperature")));
  EXPECT_THAT(check(with([](NewSequence* s) { s->sampling.top_p = INFINITY; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("top_p")));
  EXPECT_THAT(check(with([](NewSequence* s) { s->sampling.repetition_penalty = 0; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("repetition_penalty")));
  EXPECT_THAT(check(with([](NewSequence* s) {
                s->sampling.logit_bias = {{1, NAN}};
              })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("logit_bias")));
  EXPECT_THAT(check(with([](NewSequence* s) {
                s->sampling.logit_bias = {{1, 0}, {1, 1}};
              })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("twice")));
  EXPECT_THAT(check(with([](NewSequence* s) { s->sampling.allowed_tokens = {500}; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("allowed")));
  EXPECT_THAT(check(with([](NewSequence* s) { s->stop_tokens = {500}; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("stop_token_ids")));
  EXPECT_THAT(check(with([](NewSequence* s) { s->num_logprobs = 21; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("logprobs")));
  EXPECT_THAT(check(with([](NewSequence* s) { s->min_tokens = 5; })),
              StatusIs(StatusCode::kInvalidArgument, HasSubstr("min_tokens")));
}

TEST(EngineCore, OptionsThatContradictTheRunnerAreRefused) {
  worker::FakeRunner runner(SmallPages());
  FakeClock clock;
  EngineOptions options;
  options.max_num_seqs = 9;  // the runner takes 8 rows
  EXPECT_THAT(worker::EngineCore::Create(options, &runner, &clock, nullptr),
              StatusIs(absl::StatusCode::kInvalidArgument, ::testing::HasSubstr("max_num_seqs: 9")));
}

// Every logprob the engine hands out, recomputed from the model's logits.
void ExpectLogprob(const worker::FakeRunner& runner, std::span<const int32_t> prefix, int32_t token, int num_top,
                   const worker::TokenLogprob& got) {
  std::vector<float> logits;
  runner.Logits(prefix, &logits);
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l));
  const auto logprob = [&](int32_t t) { return static_cast<double>(logits[static_cast<size_t>(t)]) - std::log(sum); };
  EXPECT_TRUE(std::fabs(static_cast<double>(got.logprob) - logprob(token)) <= 1e-5) << got.logprob;
  const auto above =
      std::count_if(logits.begin(), logits.end(), [&](float l) { return l > logits[static_cast<size_t>(token)]; });
  EXPECT_EQ(got.rank, above + 1);
  ASSERT_EQ(got.top_ids.size(), static_cast<size_t>(num_top));
  ASSERT_EQ(got.top_logprobs.size(), static_cast<size_t>(num_top));
  for (size_t i = 0; i < got.top_ids.size(); ++i) {
    EXPECT_TRUE(std::fabs(static_cast<double>(got.top_logprobs[i]) - logprob(got.top_ids[i])) <= 1e-5);
    EXPECT_LE(got.top_logprobs[i], got.top_logprobs[i > 0 ? i - 1 : 0]);
  }
}

TEST(EngineCore, LogprobsOfPromptAndOutputAreThoseOfTheModel) {
  CoreHarness h(SmallPages());
  const std::vector<int32_t> prompt = Prompt(21, 4);  // three chunks
  NewSequence s = Greedy(prompt, 6);
  s.num_logprobs = 3;
  s.num_prompt_logprobs = 2;
  auto client = h.Submit(std::move(s));
  auto other = h.Submit(Greedy(Prompt(9, 1), 9));
  h.RunToEnd();
  ASSERT_EQ(client->prompt_logprobs.size(), 20u) << "the first prompt token has none";
  for (size_t i = 1; i < prompt.size(); ++i) {
    ExpectLogprob(h.runner, std::span(prompt).first(i), prompt[i], 2, client->prompt_logprobs[i - 1]);
  }
  ASSERT_EQ(client->logprobs.size(), 6u);
  std::vector<int32_t> all = prompt;
  for (size_t i = 0; i < 6; ++i) {
    ExpectLogprob(h.runner, all, client->tokens[i], 3, client->logprobs[i]);
    all.push_back(client->tokens[i]);
  }
  EXPECT_TRUE(other->logprobs.empty());
}

TEST(EngineCore, NoTokensAreGeneratedWhenOnlyThePromptIsJudged) {
  CoreHarness h(SmallPages());
  NewSequence s = Greedy(Prompt(21, 4), 0);
  s.num_prompt_logprobs = 0;
  auto client = h.Submit(std::move(s));
  NewSequence one = Greedy({3}, 0);  // nothing to judge at all
  one.num_prompt_logprobs = 0;
  auto trivial = h.Submit(std::move(one));
  h.RunToEnd();
  EXPECT_EQ(client->prompt_logprobs.size(), 20u);
  EXPECT_TRUE(client->tokens.empty());
  EXPECT_EQ(client->end->cause, FinishCause::kLength);
  EXPECT_EQ(trivial->end->cause, FinishCause::kLength);
  EXPECT_EQ(h.held_pages(), 0);
}

TEST(EngineCore, DrawsDependOnSeedAndPositionNotOnTheBatch) {
  const auto request = [](int i) {
    NewSequence s = Greedy(Prompt(3 + i * 5, i), 15);
    s.sampling.temperature = 1.5f;
    s.sampling.top_p = 0.95f;
    s.sampling.repetition_penalty = 1.2f;
    s.sampling.penalty_last_n = 8;
    s.sampling.seed = static_cast<uint64_t>(i) % 3;
    return s;
  };
  CoreHarness together(SmallPages());
  for (int i = 0; i < 6; ++i) together.Submit(request(i));
  together.RunToEnd();
  for (int i = 0; i < 6; ++i) {
    CoreHarness alone(SmallPages());
    auto client = alone.Submit(request(i));
    alone.RunToEnd();
    EXPECT_EQ(client->tokens, together.clients[static_cast<size_t>(i)]->tokens) << i;
    EXPECT_NE(client->tokens, alone.runner.Greedy(Prompt(3 + i * 5, i), 15)) << i;
  }
}

TEST(EngineCore, ASlowReaderPausesItsOwnSequenceAndResumes) {
  EngineOptions options;
  options.max_unread_bytes = 40;  // ten tokens
  CoreHarness h({}, options);
  auto slow = h.Submit(Greedy(Prompt(5, 1), 30));
  auto fast = h.Submit(Greedy(Prompt(5, 2), 30));
  for (int i = 0; i < 25; ++i) {
    h.StepUnread();
    fast->Read();
  }
  EXPECT_EQ(slow->stream->unread_bytes(), 44u) << "the token that passed the limit is the last";
  EXPECT_EQ(fast->tokens.size(), 25u);
  h.RunToEnd();
  EXPECT_EQ(slow->tokens, h.runner.Greedy(Prompt(5, 1), 30));
  EXPECT_EQ(fast->tokens, h.runner.Greedy(Prompt(5, 2), 30));
}

TEST(EngineCore, AReaderThatStallsPastTheLimitLosesItsSequence) {
  EngineOptions options;
  options.max_unread_bytes = 40;
  options.reader_stall_limit = absl::Seconds(2);
  CoreHarness h({}, options);
  auto client = h.Submit(Greedy(Prompt(5, 1), 30));
  while (h.StepUnread()) {
  }
  EXPECT_GT(h.held_pages(), 0);
  EXPECT_LE(h.core->NextWake(), h.clock.Now() + absl::Milliseconds(10)) << "a paused sequence is looked at again soon";
  h.clock.Advance(absl::Seconds(2));
  h.StepUnread();
  EXPECT_EQ(h.held_pages(), 0);
  client->Read();
  ASSERT_TRUE(client->end.has_value());
  EXPECT_THAT(client->end->status, StatusIs(absl::StatusCode::kResourceExhausted, ::testing::HasSubstr("40 bytes")));
  EXPECT_EQ(client->tokens.size(), 11u) << "what was generated can still be read";
}

TEST(EngineCore, WithNothingOpenThereIsNoNextWake) {
  CoreHarness h;
  EXPECT_FALSE(h.Step());
  EXPECT_EQ(h.core->NextWake(), absl::InfiniteFuture());
  h.Submit(Greedy(Prompt(5, 1), 3));
  h.RunToEnd();
  EXPECT_EQ(h.core->NextWake(), absl::InfiniteFuture());
}

TEST(EngineCore, ALostDeviceFailsEverySequenceAndEveryLaterOne) {
  bool lost = false;
  FakeRunnerOptions o = SmallPages();
  o.num_pages = 16;
  o.before_step = [&lost](const worker::StepBatch&) {
    return lost ? absl::InternalError("bus fell off") : absl::OkStatus();
  };
  CoreHarness h(o);
  auto runs = h.Submit(Greedy(Prompt(10, 1), 50));
  auto waits = h.Submit(Greedy(Prompt(10, 2), 50));
  for (int i = 0; i < 5; ++i) h.Step();
  lost = true;
  h.Step();
  for (const auto& c : {runs, waits}) {
    ASSERT_TRUE(c->end.has_value());
    EXPECT_THAT(c->end->status, StatusIs(absl::StatusCode::kUnavailable, ::testing::HasSubstr("bus fell off")));
  }
  EXPECT_EQ(h.held_pages(), 0);
  EXPECT_TRUE(h.core->stats().lost_device);
  auto late = h.Submit(Greedy(Prompt(3, 3), 5));
  h.Step();
  ASSERT_TRUE(late->end.has_value());
  EXPECT_THAT(late->end->status, StatusIs(absl::StatusCode::kUnavailable, ::testing::_));
}

class Recorder final : public worker::EngineObserver {
 public:
  void OnStep(int prefill_rows, int decode_rows, const worker::StepResult&, absl::Duration) override {
    prefill += prefill_rows;
    decode += decode_rows;
  }
  void OnScheduled(absl::Duration d) override { queue.push_back(d); }
  void OnFirstToken(absl::Duration d) override { ttft.push_back(d); }
  void OnInterTokenLatency(absl::Duration d) override { itl.push_back(d); }
  void OnCancelToFree(absl::Duration d) override { cancel.push_back(d); }
  void OnCacheEvents(std::span<const uint64_t>, std::span<const uint64_t>) override {}

  int prefill = 0, decode = 0;
  std::vector<absl::Duration> queue, ttft, itl, cancel;
};

TEST(EngineCore, TimesAndCountsAreThoseOfTheClock) {
  FakeClock* clock = nullptr;
  FakeRunnerOptions o = SmallPages();
  o.before_step = [&clock](const worker::StepBatch&) {
    clock->Advance(absl::Milliseconds(4));
    return absl::OkStatus();
  };
  Recorder seen;
  CoreHarness h(o, {}, &seen);
  clock = &h.clock;
  auto client = h.Submit(Greedy(Prompt(20, 1), 5));  // 3 steps of prompt, the third with a token; then 4
  h.clock.Advance(absl::Milliseconds(3));
  h.RunToEnd();
  const worker::SequenceTiming& t = client->end->timing;
  EXPECT_EQ(t.queue, absl::Milliseconds(3));
  EXPECT_EQ(t.prefill, absl::Milliseconds(3 * 5 - 1));
  EXPECT_EQ(t.ttft, t.queue + t.prefill);
  EXPECT_EQ(t.decode, absl::Milliseconds(4 * 5));
  EXPECT_EQ(t.itl_max, absl::Milliseconds(5));
  EXPECT_EQ(t.itl_p50, absl::Milliseconds(5)) << "clamped to the largest";
  EXPECT_EQ(t.preemptions, 0u);
  EXPECT_EQ(seen.prefill, 20);
  EXPECT_EQ(seen.decode, 4);
  EXPECT_EQ(seen.itl.size(), 4u);
  EXPECT_EQ(seen.ttft, std::vector{t.ttft});
  EXPECT_EQ(seen.queue, std::vector{t.queue});
  EXPECT_EQ(client->prefill_done_tokens, 16u);
  const worker::EngineStats stats = h.core->stats();
  EXPECT_EQ(stats.prompt_tokens, 20u);
  EXPECT_EQ(stats.generated_tokens, 5u);
  EXPECT_EQ(stats.steps, 7u);
  EXPECT_EQ(stats.prefix_query_tokens, 20u);
  EXPECT_EQ(stats.prefix_hit_tokens, 0u);
}

TEST(EngineCore, CancelToFreeIsNeverLessThanTheTruth) {
  Recorder seen;
  CoreHarness h({}, {}, &seen);
  auto told = h.Submit(Greedy(Prompt(5, 1), 50));
  auto untold = h.Submit(Greedy(Prompt(5, 2), 50));
  h.Step();
  told->stream->Cancel(h.clock.Now());
  untold->stream->Cancel();
  h.clock.Advance(absl::Milliseconds(2));
  h.Step();
  EXPECT_EQ(seen.cancel, (std::vector{absl::Milliseconds(2), absl::Milliseconds(3)}));
}

TEST(EngineCore, TheBytesReadAreSharedOutByRows) {
  CoreHarness h;
  auto one = h.Submit(Greedy(Prompt(30, 1), 1));
  auto two = h.Submit(Greedy(Prompt(10, 2), 1));
  h.RunToEnd();  // a single step: weights 1 MiB, 40 tokens of 64 bytes
  const double total = (1 << 20) + 40 * 64;
  EXPECT_EQ(one->end->timing.bytes_read, static_cast<uint64_t>(total * 30 / 40));
  EXPECT_EQ(two->end->timing.bytes_read, static_cast<uint64_t>(total * 10 / 40));
}

TEST(LatencyHistogram, PercentilesAreAtMostAnEighthAboveAndNeverBelow) {
  worker::LatencyHistogram h;
  EXPECT_EQ(h.Percentile(0.5), absl::ZeroDuration());
  std::vector<int64_t> us;
  for (int64_t i = 1; i < 4000; ++i) us.push_back(i * i % 999983 * i);
  for (const int64_t v : us) h.Add(absl::Microseconds(v));
  std::sort(us.begin(), us.end());
  for (const double q : {0.01, 0.1, 0.5, 0.9, 0.99, 1.0}) {
    const double exact =
        static_cast<double>(us[static_cast<size_t>(std::ceil(q * static_cast<double>(us.size()))) - 1]);
    const double got = absl::ToDoubleMicroseconds(h.Percentile(q));
    EXPECT_TRUE(got >= exact && got <= exact * 1.125 + 1) << q << ": " << got << " for " << exact;
  }
  EXPECT_EQ(h.max(), absl::Microseconds(us.back()));
}

}  // namespace
}  // namespace dunlin::testing
