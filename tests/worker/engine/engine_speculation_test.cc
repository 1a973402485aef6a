// Speculation: whatever is drafted, clients are told what they are told without it, in fewer steps; what rejected
// drafts wrote is never shared, and their pages never cost anybody else any.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/engine/cache_mirror.h"
#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using worker::FinishCause;
using worker::NewSequence;

// The likeliest token goes round in `period`, but for one in `noise` that is anything.
worker::FakeRunnerOptions Repetitive(int period, int noise) {
  worker::FakeRunnerOptions o;
  o.next_token = [period, noise](uint64_t hash, int32_t length) {
    const bool other = noise > 0 && hash % static_cast<uint64_t>(noise) == 0;
    return other ? static_cast<int32_t>((hash >> 32) % 97) : 10 + length % period * 3;
  };
  return o;
}

worker::EngineOptions Speculative(int most = 4) {
  worker::EngineOptions e;
  e.num_speculative_tokens = most;
  e.drafting = worker::Drafting::kAlways;
  return e;
}

TEST(EngineSpeculation, RepetitiveTextTakesFewerStepsAndSaysTheSame) {
  CoreHarness plain(Repetitive(7, 0)), drafted(Repetitive(7, 0), Speculative(4));
  const auto expected = plain.Submit(Greedy(Prompt(20, 1), 100));
  const int plain_steps = plain.RunToEnd();
  const auto client = drafted.Submit(Greedy(Prompt(20, 1), 100));
  const int steps = drafted.RunToEnd();
  EXPECT_EQ(client->tokens, expected->tokens);
  EXPECT_EQ(client->tokens, drafted.runner.Greedy(Prompt(20, 1), 100));
  EXPECT_EQ(client->end->cause, FinishCause::kLength);
  EXPECT_EQ(plain_steps, 100);  // the prompt's step draws the first token
  // Once the period has been seen every step verifies four tokens and draws one more.
  EXPECT_LE(steps, 12 + (100 - 12) / 5 + 1);
  const worker::EngineStats s = drafted.core->stats();
  EXPECT_EQ(s.generated_tokens, 100u);
  EXPECT_EQ(s.steps, static_cast<uint64_t>(steps));
  EXPECT_EQ(client->end->timing.draft_tokens, s.draft_tokens);
  EXPECT_EQ(client->end->timing.accepted_draft_tokens, s.accepted_draft_tokens);
  EXPECT_EQ(s.accepted_draft_tokens, static_cast<uint64_t>(100 - steps));  // one token of each step is drawn anyway
  EXPECT_EQ(plain.core->stats().drafts, 0u);
}

TEST(EngineSpeculation, TheEndIsWhereItIsWithoutItHoweverManyTokensAStepBrings) {
  for (int max_tokens = 1; max_tokens <= 40; ++max_tokens) {
    SCOPED_TRACE(max_tokens);
    worker::FakeRunnerOptions o = Repetitive(5, 0);
    o.before_step = [max_tokens](const worker::StepBatch& b) {
      EXPECT_LE(b.positions.back(), 9 + max_tokens - 2) << "a row that draws beyond the last token";
      return absl::OkStatus();
    };
    CoreHarness h(o, Speculative(6));
    const auto client = h.Submit(Greedy(Prompt(9, 2), max_tokens));
    h.RunToEnd();
    EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(9, 2), max_tokens));
    EXPECT_EQ(client->end->cause, FinishCause::kLength);
    EXPECT_EQ(h.held_pages(), 0);
  }
  worker::FakeRunnerOptions o = Repetitive(5, 0);
  o.max_model_len = 40;
  CoreHarness h(o, Speculative(6));
  const auto client = h.Submit(Greedy(Prompt(9, 2), 100));
  h.RunToEnd();
  EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(9, 2), 31));
  EXPECT_EQ(client->end->cause, FinishCause::kContextFull);
}

// After a period of five that never ends by itself: the token at some length ends the sequence, or is only thought to.
TEST(EngineSpeculation, ATokenThatEndsTheSequenceInsideAnAcceptedRunDropsWhatFollows) {
  for (int at = 20; at < 45; ++at) {
    for (const bool stop_token : {false, true}) {
      SCOPED_TRACE(::testing::Message() << "length " << at << (stop_token ? ", a stop token" : ", end of generation"));
      worker::FakeRunnerOptions o;
      o.next_token = [at](uint64_t, int32_t length) { return length == at ? 50 : 10 + length % 5; };
      worker::EngineOptions e = Speculative(6);
      if (!stop_token) e.end_of_generation = {50};
      CoreHarness h(o, e);
      NewSequence s = Greedy(Prompt(9, 2), 60);
      if (stop_token) s.stop_tokens = {50};
      const auto client = h.Submit(std::move(s));
      h.RunToEnd();
      EXPECT_EQ(client->tokens, h.runner.Greedy(Prompt(9, 2), at - 9 + 1));
      EXPECT_EQ(client->tokens.back(), 50);
      EXPECT_EQ(client->end->cause, stop_token ? FinishCause::kStopToken : FinishCause::kEos);
      EXPECT_EQ(client->end->completion_tokens, client->tokens.size());
      EXPECT_EQ(h.held_pages(), 0);
    }
  }
}

TEST(EngineSpeculation, EndingTokensAreBannedForTheFirstDrawsInsideADraftToo) {
  // The period contains the ending token; it is banned for 30 draws, and what is drawn instead is not drafted.
  for (int min_tokens = 0; min_tokens <= 40; min_tokens += 5) {
    SCOPED_TRACE(min_tokens);
    std::vector<std::vector<int32_t>> answers;
    for (const int most : {0, 5}) {
      worker::FakeRunnerOptions o;
      o.next_token = [](uint64_t, int32_t length) { return 10 + length % 6; };
      worker::EngineOptions e = Speculative(most);
      e.end_of_generation = {13};
      CoreHarness h(o, e);
      NewSequence s = Greedy(Prompt(9, 2), 60);
      s.min_tokens = min_tokens;
      const auto client = h.Submit(std::move(s));
      h.RunToEnd();
      EXPECT_EQ(client->end->cause, FinishCause::kEos);
      EXPECT_GT(static_cast<int>(client->tokens.size()), min_tokens);
      answers.push_back(client->tokens);
    }
    EXPECT_EQ(answers[0], answers[1]);
  }
}

TEST(EngineSpeculation, WhatAClientForbidsOrPenaltiesPreventIsNotDrafted) {
  CoreHarness h(Repetitive(5, 0), Speculative(4));
  NewSequence off = Greedy(Prompt(9, 1), 40), penalised = off, capped = off;
  off.max_draft_tokens = 0;
  penalised.sampling.repetition_penalty = 1.1f;
  capped.max_draft_tokens = 1;
  const auto a = h.Submit(off), b = h.Submit(penalised), c = h.Submit(capped);
  h.RunToEnd();
  EXPECT_EQ(a->end->timing.draft_tokens, 0u);
  EXPECT_EQ(b->end->timing.draft_tokens, 0u);
  EXPECT_GT(c->end->timing.accepted_draft_tokens, 10u);
  EXPECT_LE(c->end->timing.accepted_draft_tokens, 20u);  // at most one of two tokens
  EXPECT_EQ(a->tokens, c->tokens);
}

TEST(EngineSpeculation, NoStepThatComputesAPromptVerifiesADraft) {
  worker::FakeRunnerOptions o = Repetitive(5, 0);
  o.max_rows = 24;
  int mixed = 0;
  o.before_step = [&mixed](const worker::StepBatch& b) {
    if (b.num_prefill_rows == 0) return absl::OkStatus();
    ++mixed;
    EXPECT_LE(b.num_rows() - b.num_prefill_rows, 1);
    return absl::OkStatus();
  };
  CoreHarness h(o, Speculative(6));
  const auto first = h.Submit(Greedy(Prompt(9, 1), 120));
  for (int i = 0; i < 15; ++i) h.Step();
  const uint64_t before = h.core->stats().draft_tokens;
  EXPECT_GT(before, 0u);
  h.Submit(Greedy(Prompt(200, 2), 3));
  for (int i = 0; i < 9; ++i) h.Step();
  EXPECT_GT(mixed, 8);
  EXPECT_EQ(h.core->stats().draft_tokens, before);
  h.RunToEnd();
  EXPECT_EQ(first->tokens, h.runner.Greedy(Prompt(9, 1), 120));
}

TEST(EngineSpeculation, DraftsNeverTakeAPageThatSomebodyWasPromised) {
  // Four pages of four tokens, all promised: each sequence may use its own two, to the last slot, and no more.
  worker::FakeRunnerOptions o = Repetitive(1, 0);
  o.page_tokens = 4;
  o.num_pages = 4;
  o.max_model_len = 16;
  worker::EngineOptions e = Speculative(8);
  e.promise = worker::AdmissionPromise::kWorstCase;
  CoreHarness h(o, e);
  const auto a = h.Submit(Greedy({10, 10, 10}, 6)), b = h.Submit(Greedy({10, 10, 10}, 6));
  h.RunToEnd();
  EXPECT_EQ(a->tokens, std::vector<int32_t>(6, 10));
  EXPECT_EQ(b->tokens, a->tokens);
  EXPECT_EQ(h.core->stats().preemptions, 0u);
  EXPECT_GT(h.core->stats().accepted_draft_tokens, 0u);
}

TEST(EngineSpeculation, WithNoPageLeftADraftStaysInsideThePagesThatThereAre) {
  // Promised its tokens alone, the sequence takes one page after the other; the other one has all the rest.
  worker::FakeRunnerOptions o = Repetitive(1, 0);
  o.page_tokens = 4;
  o.num_pages = 6;
  o.max_model_len = 24;
  worker::EngineOptions e = Speculative(8);
  e.promise = worker::AdmissionPromise::kTokens;
  e.enable_prefix_caching = false;
  CoreHarness h(o, e);
  const auto a = h.Submit(Greedy({10, 10, 10}, 9)), b = h.Submit(Greedy(std::vector<int32_t>(11, 10), 9));
  while (h.Step()) EXPECT_LE(h.held_pages(), 6);
  EXPECT_EQ(a->tokens, std::vector<int32_t>(9, 10));
  EXPECT_EQ(b->tokens, std::vector<int32_t>(9, 10));
}

TEST(EngineSpeculation, ThePrefixIndexHoldsExactlyThePagesThatItHoldsWithoutIt) {
  uint64_t rejected = 0, accepted = 0;
  for (int noise = 2; noise < 12; ++noise) {
    SCOPED_TRACE(noise);
    CacheMirror mirrors[2];
    std::vector<int32_t> answers[2];
    uint32_t hits[2];
    for (const bool drafts : {false, true}) {
      worker::FakeRunnerOptions o = Repetitive(4, noise);
      o.page_tokens = 2;
      o.num_pages = 400;
      worker::EngineOptions e = Speculative(drafts ? 7 : 0);
      e.record_cache_events = true;
      CoreHarness h(o, e, &mirrors[drafts]);
      std::vector<std::shared_ptr<Client>> clients;
      for (int i = 0; i < 3; ++i) clients.push_back(h.Submit(Greedy(Prompt(11, i), 80)));
      h.RunToEnd();
      for (const auto& c : clients) answers[drafts].insert(answers[drafts].end(), c->tokens.begin(), c->tokens.end());
      // A second turn finds all that the first one computed, its last token aside.
      std::vector<int32_t> turn = Prompt(11, 0);
      turn.insert(turn.end(), clients[0]->tokens.begin(), clients[0]->tokens.end());
      turn.push_back(1);
      const auto second = h.Submit(Greedy(turn, 1));
      h.RunToEnd();
      hits[drafts] = second->end->cached_prompt_tokens;
      rejected += h.core->stats().draft_tokens - h.core->stats().accepted_draft_tokens;
      accepted += h.core->stats().accepted_draft_tokens;
    }
    EXPECT_EQ(answers[0], answers[1]);
    EXPECT_EQ(mirrors[0].hashes, mirrors[1].hashes);
    EXPECT_EQ(hits[0], hits[1]);
    EXPECT_EQ(hits[1], 90u);  // 11 + 80 - 1, whole pages
  }
  EXPECT_GT(rejected, 500u);
  EXPECT_GT(accepted, 500u);
}

// Sequences of every kind, seeds and temperatures, on a roomy and on a tight pool: the same tokens, logprobs and ends.
TEST(EngineSpeculation, TokensLogprobsAndEndsAreTheSameForRandomRequests) {
  worker::EngineStats all;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    std::vector<std::shared_ptr<Client>> clients[2];
    for (const bool drafts : {false, true}) {
      std::mt19937_64 random(seed);
      const auto below = [&random](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
      worker::FakeRunnerOptions o = Repetitive(1 + below(8), 2 + below(30));
      o.page_tokens = 1 << below(4);
      o.max_model_len = 80;
      o.num_pages = (80 + o.page_tokens - 1) / o.page_tokens * (1 + below(4));
      o.max_rows = 8 + below(20);
      worker::EngineOptions e = Speculative(1 + below(10));
      if (!drafts) e.num_speculative_tokens = 0;
      e.num_scheduler_steps = 1 + below(2) * below(6);
      e.promise = below(2) == 0 ? worker::AdmissionPromise::kTokens : worker::AdmissionPromise::kPredictedOutput;
      e.end_of_generation = {19, 40};
      CoreHarness h(o, e);
      for (int i = 0; i < 8; ++i) {
        NewSequence s = Greedy(Prompt(1 + below(30), below(5)), 1 + below(80));
        s.sampling.temperature = below(2) == 0 ? 0.0f : 0.1f * static_cast<float>(1 + below(12));
        s.sampling.seed = random();
        if (below(4) == 0) s.sampling.top_p = 0.8f;
        if (below(5) == 0) s.sampling.presence_penalty = 0.5f;
        if (below(3) == 0) s.num_logprobs = below(3);
        if (below(4) == 0) s.num_prompt_logprobs = 0;
        if (below(3) == 0) s.ignore_eos = true;
        if (below(4) == 0) s.min_tokens = std::min(s.max_tokens, below(20));
        if (below(4) == 0) s.stop_tokens = {10 + below(20)};
        s.cache_write = below(4) != 0;
        s.cache_read = below(4) != 0;
        clients[drafts].push_back(h.Submit(std::move(s)));
        for (int k = below(12); k > 0; --k) h.Step();
      }
      h.RunToEnd();
      EXPECT_EQ(h.core->CheckIdle(), "");
      EXPECT_EQ(h.held_pages(), 0);
      const worker::EngineStats stats = h.core->stats();
      all.preemptions += stats.preemptions;
      all.draft_tokens += stats.draft_tokens;
      all.accepted_draft_tokens += stats.accepted_draft_tokens;
    }
    for (size_t i = 0; i < clients[0].size(); ++i) {
      const Client &want = *clients[0][i], &got = *clients[1][i];
      EXPECT_EQ(got.tokens, want.tokens) << "client " << i;
      EXPECT_EQ(got.end->cause, want.end->cause);
      EXPECT_EQ(got.end->stop_token, want.end->stop_token);
      ASSERT_EQ(got.logprobs.size(), want.logprobs.size());
      for (size_t k = 0; k < got.logprobs.size(); ++k) {
        EXPECT_EQ(got.logprobs[k].logprob, want.logprobs[k].logprob);
        EXPECT_EQ(got.logprobs[k].rank, want.logprobs[k].rank);
        EXPECT_EQ(got.logprobs[k].top_ids, want.logprobs[k].top_ids);
      }
    }
    ASSERT_FALSE(HasFailure());
  }
  EXPECT_GT(all.preemptions, 50u);
  EXPECT_GT(all.accepted_draft_tokens, 2000u);
  EXPECT_GT(all.draft_tokens - all.accepted_draft_tokens, 2000u);
  std::printf("%llu drafted, %llu accepted, %llu preemptions\n", static_cast<unsigned long long>(all.draft_tokens),
              static_cast<unsigned long long>(all.accepted_draft_tokens),
              static_cast<unsigned long long>(all.preemptions));
}

// The step-time model decides: where a row costs what a step costs, nothing is drafted; where it is free, all is.
TEST(EngineSpeculation, DraftsWhereRowsAreCheapAndNotWhereTheyAreDear) {
  for (const bool cheap : {false, true}) {
    SCOPED_TRACE(cheap ? "cheap" : "dear");
    CoreHarness* harness = nullptr;
    worker::FakeRunnerOptions o = Repetitive(3, 0);
    o.before_step = [&](const worker::StepBatch& b) {
      harness->clock.Advance(absl::Microseconds((cheap ? 5000 : 50) + b.num_rows() * (cheap ? 50 : 1000)));
      return absl::OkStatus();
    };
    worker::EngineOptions e = Speculative(4);
    e.drafting = worker::Drafting::kWhenWorthIt;
    CoreHarness h(o, e);
    harness = &h;
    // Prompts of several lengths, so that the model has seen what rows cost.
    for (int i = 0; i < 4; ++i) h.Submit(Greedy(Prompt(10 + 8 * i, i), 100));
    h.RunToEnd();
    const worker::EngineStats s = h.core->stats();
    if (cheap) {
      EXPECT_GT(s.accepted_draft_tokens, 200u);
    } else {
      EXPECT_LT(s.draft_tokens, 10u);
    }
  }
}

TEST(EngineSpeculation, TheInterTokenTargetBoundsDraftsToo) {
  CoreHarness* harness = nullptr;
  worker::FakeRunnerOptions o = Repetitive(3, 0);
  absl::Duration longest;
  o.before_step = [&](const worker::StepBatch& b) {
    const absl::Duration took = absl::Microseconds(1000 + b.num_rows() * 100);
    if (harness->core->stats().steps > 20) longest = std::max(longest, took);
    harness->clock.Advance(took);
    return absl::OkStatus();
  };
  worker::EngineOptions e = Speculative(8);
  e.drafting = worker::Drafting::kWhenWorthIt;
  e.inter_token_target = absl::Microseconds(1350);
  CoreHarness h(o, e);
  harness = &h;
  const auto client = h.Submit(Greedy(Prompt(40, 1), 200));
  h.RunToEnd();
  EXPECT_GT(client->end->timing.accepted_draft_tokens, 60u);
  EXPECT_LE(longest, absl::Microseconds(1350));
}

}  // namespace
}  // namespace dunlin::testing
