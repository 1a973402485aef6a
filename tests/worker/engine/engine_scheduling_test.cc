// Who runs when, and who gives way: preemption, fairness, priorities, chunks, several steps per plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/worker/engine/core_harness.h"

namespace dunlin::testing {
namespace {

using worker::AdmissionPromise;
using worker::EngineOptions;
using worker::EngineStats;
using worker::FakeRunnerOptions;
using worker::NewSequence;

FakeRunnerOptions SmallPages(int32_t num_pages) {
  FakeRunnerOptions o;
  o.page_tokens = 4;
  o.num_pages = num_pages;
  o.max_model_len = 128;
  o.max_rows = 32;
  return o;
}

EngineOptions Promising(AdmissionPromise promise) {
  EngineOptions options;
  options.promise = promise;
  return options;
}

NewSequence Of(std::string tenant, int32_t priority, NewSequence s) {
  s.tenant = std::move(tenant);
  s.priority = priority;
  return s;
}

// ---- Preemption ----

TEST(EnginePreemption, ChangesNothingButTheCounts) {
  CoreHarness h(SmallPages(20), Promising(AdmissionPromise::kTokens));
  for (int i = 0; i < 3; ++i) h.Submit(Greedy(Prompt(10, i), 50));  // 15 pages each in the end
  h.RunToEnd();
  uint32_t told = 0;
  for (int i = 0; i < 3; ++i) {
    const Client& c = *h.clients[static_cast<size_t>(i)];
    ASSERT_TRUE(c.end.has_value());
    EXPECT_EQ(c.tokens, h.runner.Greedy(Prompt(10, i), 50)) << i;
    EXPECT_EQ(c.end->completion_tokens, 50u);
    EXPECT_LE(c.end->timing.preemptions, 2u);
    told += c.end->timing.preemptions;
  }
  EXPECT_EQ(h.clients[0]->end->timing.preemptions, 0u) << "the oldest is never preempted";
  const EngineStats s = h.core->stats();
  EXPECT_GE(s.preemptions, 2u);
  EXPECT_EQ(s.preemptions, told);
  EXPECT_GT(s.recomputed_tokens, 0u);
  EXPECT_EQ(s.prompt_tokens, 30u) << "a prompt is counted once, however often it is computed";
  EXPECT_EQ(s.generated_tokens, 150u);
  EXPECT_EQ(s.invariant_failures, 0u);
  EXPECT_EQ(h.core->CheckIdle(), "");
}

TEST(EnginePreemption, TheWorstCasePromiseNeverPreempts) {
  CoreHarness h(SmallPages(40), Promising(AdmissionPromise::kWorstCase));
  for (int i = 0; i < 12; ++i) h.Submit(Greedy(Prompt(10, i), 50));
  h.RunToEnd();
  EXPECT_EQ(h.core->stats().preemptions, 0u);
  EXPECT_EQ(h.core->stats().recomputed_tokens, 0u);
}

TEST(EnginePreemption, TheLessImportantGiveWay) {
  CoreHarness h(SmallPages(24), Promising(AdmissionPromise::kTokens));
  auto low = h.Submit(Of("", 0, Greedy(Prompt(8, 1), 60)));
  auto high = h.Submit(Of("", 1, Greedy(Prompt(8, 2), 60)));
  h.RunToEnd();
  EXPECT_EQ(high->end->timing.preemptions, 0u);
  EXPECT_GE(low->end->timing.preemptions, 1u);
  EXPECT_EQ(low->tokens, h.runner.Greedy(Prompt(8, 1), 60));
}

TEST(EnginePreemption, ACancelledOrLateOneEndsWhileItWaitsToComeBack) {
  CoreHarness h(SmallPages(20), Promising(AdmissionPromise::kTokens));
  for (int i = 0; i < 3; ++i) h.Submit(Greedy(Prompt(10, i), 50));
  while (h.core->stats().waiting_preempted == 0) ASSERT_TRUE(h.Step());
  EXPECT_EQ(h.core->stats().waiting, h.core->stats().waiting_preempted);
  for (auto& c : h.clients) c->stream->Cancel();
  h.Step();
  for (auto& c : h.clients) EXPECT_TRUE(c->end.has_value());
  EXPECT_EQ(h.core->CheckIdle(), "");
  EXPECT_EQ(h.core->num_left_queue(), 3u);
}

// 64 clients that always have a request open, with a tenth of the pages that 64 requests would use.
void ServeFromTenthOfThePages(AdmissionPromise promise, uint64_t min_preemptions) {
  EngineOptions options = Promising(promise);
  options.max_num_seqs = 32;
  options.end_of_generation = {11, 60};
  options.num_scheduler_steps = 3;
  CoreHarness h(SmallPages(160), options);
  struct Stream {
    std::shared_ptr<Client> client;
    std::vector<int32_t> prompt;
    int served = 0;
  };
  std::vector<Stream> streams(64);
  const auto submit = [&](size_t i) {
    Stream& s = streams[i];
    const int salt = static_cast<int>(i) * 10 + s.served;
    s.prompt = Prompt(20 + salt % 40, salt);
    s.client = h.Submit(Of(i % 2 == 0 ? "a" : "b", 0, Greedy(s.prompt, 60)));
    h.clients.clear();
  };
  for (size_t i = 0; i < streams.size(); ++i) submit(i);
  int open = 64, steps = 0;
  while (open > 0) {
    ASSERT_TRUE(h.Step()) << "deadlock";
    ASSERT_LT(++steps, 100000);
    for (size_t i = 0; i < streams.size(); ++i) {
      Stream& s = streams[i];
      if (s.client == nullptr) continue;
      s.client->Read();
      if (!s.client->end.has_value()) continue;
      ASSERT_TRUE(s.client->end->status.ok()) << s.client->end->status;
      ASSERT_LE(s.client->end->timing.preemptions, 2u);
      std::vector<int32_t> expected = h.runner.Greedy(s.prompt, 60);
      const auto end = std::find_if(expected.begin(), expected.end(), [](int32_t t) { return t == 11 || t == 60; });
      if (end != expected.end()) expected.erase(end + 1, expected.end());
      ASSERT_EQ(s.client->tokens, expected);
      s.client = nullptr;
      if (++s.served < 10) {
        submit(i);
      } else {
        --open;
      }
    }
  }
  const EngineStats s = h.core->stats();
  EXPECT_GE(s.preemptions, min_preemptions);
  EXPECT_FALSE(h.Step());
  EXPECT_EQ(h.core->CheckIdle(), "");
  EXPECT_EQ(s.invariant_failures, 0u);
  std::printf("640 requests in %llu steps, %llu preemptions, %llu tokens computed again\n",
              static_cast<unsigned long long>(s.steps), static_cast<unsigned long long>(s.preemptions),
              static_cast<unsigned long long>(s.recomputed_tokens));
}

TEST(EnginePreemption, ATenthOfThePagesServesEverybodyWithForcedPreemptions) {
  ServeFromTenthOfThePages(AdmissionPromise::kTokens, 100);
}
TEST(EnginePreemption, ATenthOfThePagesServesEverybodyWithPredictedOutputs) {
  ServeFromTenthOfThePages(AdmissionPromise::kPredictedOutput, 0);  // outputs are predicted well here
}

// ---- Order ----

TEST(EngineOrder, HigherPrioritiesJoinFirst) {
  EngineOptions options;
  options.max_num_seqs = 1;
  CoreHarness h(SmallPages(64), options);
  h.Submit(Of("", 0, Greedy(Prompt(5, 0), 5)));
  h.Step();
  auto low = h.Submit(Of("", -1, Greedy(Prompt(5, 1), 5)));
  auto normal = h.Submit(Of("", 0, Greedy(Prompt(5, 2), 5)));
  auto high = h.Submit(Of("", 1, Greedy(Prompt(5, 3), 5)));
  while (!high->scheduled) h.Step();
  EXPECT_FALSE(normal->scheduled);
  while (!normal->scheduled) h.Step();
  EXPECT_FALSE(low->scheduled);
  h.RunToEnd();
  EXPECT_TRUE(low->scheduled);
}

TEST(EngineOrder, EarlierDeadlinesJoinFirst) {
  EngineOptions options;
  options.max_num_seqs = 1;
  CoreHarness h(SmallPages(64), options);
  h.Submit(Greedy(Prompt(5, 0), 5));
  h.Step();
  auto relaxed = h.Submit(Greedy(Prompt(5, 1), 5));
  NewSequence s = Greedy(Prompt(5, 2), 5);
  s.deadline = h.clock.Now() + absl::Seconds(5);
  auto urgent = h.Submit(std::move(s));
  while (!urgent->scheduled) h.Step();
  EXPECT_FALSE(relaxed->scheduled);
}

TEST(EngineOrder, TwoTenantsWithWorkWaitingGetEqualService) {
  EngineOptions options;
  options.max_num_seqs = 4;
  CoreHarness h(SmallPages(400), options);
  std::map<std::string, std::vector<std::shared_ptr<Client>>> clients;
  // One floods with long requests before the other comes with short ones.
  for (int i = 0; i < 60; ++i) clients["flood"].push_back(h.Submit(Of("flood", 0, Greedy(Prompt(40, i), 40))));
  for (int i = 0; i < 50; ++i) h.Step();
  for (int i = 0; i < 200; ++i) clients["light"].push_back(h.Submit(Of("light", 0, Greedy(Prompt(10, i), 10))));
  const auto service = [&](const std::string& tenant) {
    double sum = 0;
    for (const auto& c : clients[tenant]) {
      if (c->scheduled) sum += tenant == "flood" ? 40 : 10;
      sum += 2.0 * static_cast<double>(c->tokens.size());
    }
    return sum;
  };
  const double flood_before = service("flood");
  for (int i = 0; i < 400; ++i) h.Step();
  ASSERT_FALSE(clients["flood"].back()->scheduled || clients["light"].back()->scheduled)
      << "both must be waiting still";
  const double flood = service("flood") - flood_before, light = service("light");
  EXPECT_GT(light, 500);
  // The bound of tenant_counters.h, with four running: a request of the flood weighs 40 + 2 * 40.
  EXPECT_LE(std::abs(flood - light), 2 * 120 + 4 * 120) << flood << " and " << light;
  EXPECT_GT(h.core->stats().vtc_spread_tokens, 0.0);
}

TEST(EngineOrder, AShortPromptGetsItsFirstTokenWithinThreeStepsOfTheIdleCase) {
  FakeRunnerOptions o;
  o.max_rows = 256;
  o.max_model_len = 5000;
  o.num_pages = 2000;
  for (int arrives = 0; arrives < 12; ++arrives) {
    CoreHarness h(o);
    for (int i = 0; i < 4; ++i) h.Submit(Greedy(Prompt(4000, i), 4));
    for (int i = 0; i < arrives; ++i) h.Step();
    auto brief = h.Submit(Greedy(Prompt(100, 9), 4));
    int steps = 0;
    while (brief->tokens.empty()) {
      h.Step();
      ASSERT_LE(++steps, 1 + 3) << "arrived after step " << arrives << "; alone it takes one step";
    }
    h.RunToEnd();
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(h.clients[static_cast<size_t>(i)]->tokens, h.runner.Greedy(Prompt(4000, i), 4));
    }
  }
}

TEST(EngineOrder, AShortPromptDoesNotWaitForAnyNumberOfLongOnes) {
  FakeRunnerOptions o;
  o.max_rows = 256;
  o.max_model_len = 2000;
  o.num_pages = 3000;
  for (int longs : {7, 8, 9, 20}) {
    CoreHarness h(o);
    for (int i = 0; i < longs; ++i) h.Submit(Greedy(Prompt(1500, i), 1));
    for (int i = 0; i < 3; ++i) h.Step();
    auto brief = h.Submit(Greedy(Prompt(100, 77), 1));
    int steps = 0;
    while (brief->tokens.empty()) {
      h.Step();
      ASSERT_LE(++steps, 1 + 3) << "beside " << longs;
    }
    h.RunToEnd();
  }
}

TEST(EngineOrder, PromptChunksKeepToTheInterTokenTarget) {
  FakeClock* clock = nullptr;
  int most_prefill = 0;
  FakeRunnerOptions o;
  o.max_rows = 256;
  o.max_model_len = 3000;
  o.num_pages = 1000;
  // A device whose step takes 2 ms and 0.1 ms per row.
  o.before_step = [&](const worker::StepBatch& batch) {
    clock->Advance(absl::Milliseconds(2) + batch.num_rows() * absl::Microseconds(100));
    if (batch.num_prefill_rows < batch.num_rows()) most_prefill = std::max(most_prefill, batch.num_prefill_rows);
    return absl::OkStatus();
  };
  EngineOptions options;
  options.inter_token_target = absl::Milliseconds(10);
  CoreHarness h(o, options);
  clock = &h.clock;
  for (int i = 0; i < 3; ++i) h.Submit(Greedy(Prompt(600 + 100 * i, i), 60));  // the model learns
  h.RunToEnd();
  auto decodes = h.Submit(Greedy(Prompt(10, 7), 200));
  h.Step();
  most_prefill = 0;
  auto prompt = h.Submit(Greedy(Prompt(2900, 8), 4));
  while (!prompt->end.has_value()) h.Step();
  // 80 rows take 10 ms; the one that decodes is one of them.
  EXPECT_LE(most_prefill, 88);
  EXPECT_GE(most_prefill, 64);
  EXPECT_GT(h.core->stats().predicted_step_seconds, 0.0);
  decodes->stream->Cancel();
  h.RunToEnd();
}

// ---- Several steps per plan ----

EngineOptions Steps(int n) {
  EngineOptions options;
  options.num_scheduler_steps = n;
  return options;
}

TEST(EngineMultiStep, TheSameTokensWithFewerPlans) {
  std::vector<std::vector<int32_t>> tokens;
  uint64_t plans_of_one = 0;
  for (const int n : {1, 2, 8, 100}) {
    CoreHarness h(SmallPages(200), Steps(n));
    for (int i = 0; i < 4; ++i) {
      NewSequence s = Greedy(Prompt(6 + i, i), 60);
      s.sampling.temperature = 0.8f;
      s.sampling.seed = 5;
      s.sampling.repetition_penalty = 1.1f;
      h.Submit(std::move(s));
    }
    h.RunToEnd();
    for (size_t i = 0; i < 4; ++i) {
      if (n == 1) tokens.push_back(h.clients[i]->tokens);
      EXPECT_EQ(h.clients[i]->tokens, tokens[i]) << n;
    }
    const EngineStats s = h.core->stats();
    EXPECT_EQ(s.steps, 60u) << "34 prompt tokens fit in one step of 32 but for two";
    if (n == 1) plans_of_one = s.plans;
    EXPECT_LE(s.plans, plans_of_one / static_cast<uint64_t>(n) + 3) << n;
  }
}

// Runs one sequence with a plan of 50 steps; `disturb` is called before its 10th decode step. Returns the steps that
// were run before the engine planned again.
int StepsAfter(const std::function<void(CoreHarness*, Client*)>& disturb, EngineOptions options = Steps(50)) {
  CoreHarness* harness = nullptr;
  Client* client = nullptr;
  int steps = 0;
  FakeRunnerOptions o = SmallPages(200);
  o.before_step = [&](const worker::StepBatch&) {
    if (++steps == 10) disturb(harness, client);
    return absl::OkStatus();
  };
  CoreHarness h(o, options);
  harness = &h;
  auto submitted = h.Submit(Greedy(Prompt(5, 1), 100));
  client = submitted.get();
  h.StepUnread();  // the prompt
  h.StepUnread();
  return steps;
}

TEST(EngineMultiStep, EndsEarlyForWhateverNeedsTheEngine) {
  EXPECT_EQ(StepsAfter([](CoreHarness*, Client*) {}), 51);
  EXPECT_EQ(StepsAfter([](CoreHarness*, Client* c) { c->stream->Cancel(); }), 10);
  bool interrupt = false;
  EXPECT_EQ(StepsAfter([&](CoreHarness* h, Client*) {
              h->core->SetInterrupt([&] { return interrupt; });
              interrupt = true;
            }),
            10);
  EngineOptions slow = Steps(50);
  slow.max_unread_bytes = 40;
  EXPECT_EQ(StepsAfter([](CoreHarness*, Client*) {}, slow), 11) << "ten tokens are 40 bytes";
}

TEST(EngineMultiStep, EndsEarlyWhenASequenceEndsOrItsTimeIsUp) {
  FakeClock* clock = nullptr;
  FakeRunnerOptions o = SmallPages(200);
  o.before_step = [&](const worker::StepBatch&) {
    clock->Advance(absl::Milliseconds(1));
    return absl::OkStatus();
  };
  CoreHarness h(o, Steps(50));
  clock = &h.clock;
  NewSequence s = Greedy(Prompt(5, 1), 100);
  s.max_time = absl::Milliseconds(12);
  auto timed = h.Submit(std::move(s));
  auto brief = h.Submit(Greedy(Prompt(5, 2), 6));
  h.Step();  // prompts
  h.Step();
  EXPECT_TRUE(brief->end.has_value());
  EXPECT_EQ(timed->tokens.size(), 6u) << "a place came free";
  h.Step();
  EXPECT_FALSE(timed->end.has_value());
  h.Step();
  ASSERT_TRUE(timed->end.has_value());
  EXPECT_EQ(timed->end->cause, worker::FinishCause::kMaxTime);
  EXPECT_LE(timed->tokens.size(), 12u);
  EXPECT_GE(timed->tokens.size(), 9u);
}

TEST(EngineMultiStep, StopsWhereThePagesEnd) {
  EngineOptions options = Steps(50);
  options.promise = AdmissionPromise::kTokens;
  CoreHarness h(SmallPages(20), options);
  for (int i = 0; i < 3; ++i) h.Submit(Greedy(Prompt(10, i), 50));
  h.RunToEnd();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(h.clients[static_cast<size_t>(i)]->tokens, h.runner.Greedy(Prompt(10, i), 50)) << i;
  }
  EXPECT_GE(h.core->stats().preemptions, 2u);
  EXPECT_LT(h.core->stats().plans, h.core->stats().steps);
}

// ---- The same inputs give the same steps ----

TEST(EngineDeterminism, EqualSubmissionsAtEqualTimesGiveEqualSteps) {
  const auto run = [] {
    std::vector<int32_t> trace;
    FakeRunnerOptions o = SmallPages(60);
    o.before_step = [&trace](const worker::StepBatch& batch) {
      trace.push_back(batch.num_rows());
      trace.insert(trace.end(), batch.token_ids.begin(), batch.token_ids.end());
      for (const kernels::SequenceSlice& s : batch.sequences) {
        trace.insert(trace.end(), s.pages, s.pages + (s.context_tokens + s.num_rows + 3) / 4);
      }
      return absl::OkStatus();
    };
    EngineOptions options = Promising(AdmissionPromise::kTokens);
    options.num_scheduler_steps = 3;
    CoreHarness h(o, options);
    for (int i = 0; i < 40; ++i) {
      NewSequence s = Of(i % 3 == 0 ? "a" : "b", i % 2, Greedy(Prompt(5 + i, i % 5), 30));
      s.num_logprobs = i % 4 == 0 ? 2 : -1;
      h.Submit(std::move(s));
      h.Step();
    }
    h.RunToEnd();
    return trace;
  };
  EXPECT_EQ(run(), run());
}

}  // namespace
}  // namespace dunlin::testing
