#include "gateway/request_plan.h"

#include <vector>

#include "gateway/unary_collector.h"
#include "gtest/gtest.h"

namespace dunlin::gateway {
namespace {

TEST(RequestPlan, TheModelCardsSamplingIsTheDefaultWhereOneIsKnown) {
  const SamplingDefaults known = DefaultsForModel("Smollm2 135M 8k Lc100K Mix1 Ep2", "llama");
  EXPECT_FLOAT_EQ(known.temperature, 0.2f);
  EXPECT_FLOAT_EQ(known.top_p, 0.9f);
  for (const SamplingDefaults other : {DefaultsForModel("Some Other", "llama"), DefaultsForModel("SmolLM2", "qwen2")}) {
    EXPECT_FLOAT_EQ(other.temperature, 1.0f);
    EXPECT_FLOAT_EQ(other.top_p, 1.0f);
  }
}

TEST(RequestPlan, WhatTheRequestSaysWinsAndTheRestIsFilledIn) {
  v1::GenerateRequest request;
  request.mutable_sampling()->set_temperature(0);
  const RequestPlan plan = MakePlan(request, {.temperature = 0.2f, .top_p = 0.9f}, 99, {1, 2, 3}, 10);
  EXPECT_FLOAT_EQ(plan.sampling.temperature(), 0);
  EXPECT_FLOAT_EQ(plan.sampling.top_p(), 0.9f);
  EXPECT_EQ(plan.sampling.seed(), 99u);
  EXPECT_FLOAT_EQ(plan.sampling.repetition_penalty(), 1);
  EXPECT_FALSE(plan.sampling.has_penalty_last_n()) << "unset = the whole sequence";
  EXPECT_EQ(plan.stopping.max_tokens(), 7u);
  EXPECT_TRUE(plan.context_bounds_length);
  EXPECT_EQ(plan.num_choices, 1u);
}

TEST(RequestPlan, MaxTokensBeyondTheContextAreClipped) {
  v1::GenerateRequest request;
  request.mutable_stopping()->set_max_tokens(7);
  EXPECT_FALSE(MakePlan(request, {}, 1, {1, 2, 3}, 10).context_bounds_length);
  request.mutable_stopping()->set_max_tokens(8);
  request.mutable_stopping()->set_min_tokens(8);
  const RequestPlan plan = MakePlan(request, {}, 1, {1, 2, 3}, 10);
  EXPECT_TRUE(plan.context_bounds_length);
  EXPECT_EQ(plan.stopping.max_tokens(), 7u);
  EXPECT_EQ(plan.stopping.min_tokens(), 7u);
}

TEST(RequestPlan, SpeculationIsWhatTheClientAllows) {
  v1::GenerateRequest request;
  request.mutable_speculation()->set_max_draft_tokens(3);
  worker::v1::GenerateRequest sent = ToWorkerRequest(MakePlan(request, {}, 7, {5, 6}, 100), absl::ZeroDuration());
  EXPECT_TRUE(sent.has_max_draft_tokens());
  EXPECT_EQ(sent.max_draft_tokens(), 3u);
  request.mutable_speculation()->set_disable(true);
  sent = ToWorkerRequest(MakePlan(request, {}, 7, {5, 6}, 100), absl::ZeroDuration());
  EXPECT_TRUE(sent.has_max_draft_tokens());
  EXPECT_EQ(sent.max_draft_tokens(), 0u);
}

TEST(RequestPlan, TheWorkersRequestCarriesEverythingItNeeds) {
  v1::GenerateRequest request;
  request.mutable_stopping()->set_max_time_ms(1500);
  request.mutable_stopping()->add_stop_token_ids(4);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_output()->set_logprobs(3);
  request.mutable_output()->set_prompt_logprobs(0);
  request.mutable_cache()->set_salt("mine");
  request.mutable_cache()->set_mode(v1::Cache::MODE_BYPASS);
  request.mutable_sampling()->set_n(4);
  RequestPlan plan = MakePlan(request, {}, 7, {5, 6}, 100);
  plan.request_id = "r";
  plan.caller = {"somebody", -1};
  const worker::v1::GenerateRequest sent = ToWorkerRequest(plan, absl::Milliseconds(400));
  EXPECT_EQ(sent.request_id(), "r");
  EXPECT_EQ(std::vector<uint32_t>(sent.prompt_ids().begin(), sent.prompt_ids().end()), (std::vector<uint32_t>{5, 6}));
  EXPECT_EQ(sent.max_time().seconds(), 1);
  EXPECT_EQ(sent.max_time().nanos(), 100'000'000);
  EXPECT_EQ(sent.stop_token_ids(0), 4u);
  EXPECT_TRUE(sent.ignore_eos());
  EXPECT_EQ(sent.logprobs(), 3u);
  EXPECT_TRUE(sent.has_prompt_logprobs());
  EXPECT_EQ(sent.cache_namespace(), CacheNamespace("somebody", "mine"));
  EXPECT_EQ(sent.tenant(), "somebody");
  EXPECT_EQ(sent.priority(), -1);
  EXPECT_EQ(sent.cache_mode(), v1::Cache::MODE_BYPASS);
  EXPECT_EQ(sent.num_choices(), 4u);
  EXPECT_FALSE(sent.has_max_draft_tokens()) << "nothing was said about speculation";
  EXPECT_EQ(sent.max_tokens(), 98u);
  EXPECT_EQ(ToWorkerRequest(plan, absl::Hours(1)).max_time().nanos(), 1'000'000) << "late, but still a timely end";
}

TEST(UnaryCollector, MergesEventsByChoice) {
  v1::GenerateUnaryResponse response;
  const auto add = [&](auto fill) {
    v1::GenerateResponse event;
    fill(&event);
    MergeEvent(event, &response);
  };
  add([](auto* e) { e->mutable_accepted()->set_request_id("r"); });
  for (const char* piece : {"a", "b"}) {
    add([&](auto* e) {
      e->mutable_delta()->set_index(1);
      e->mutable_delta()->set_text(piece);
      e->mutable_delta()->add_token_ids(9);
    });
  }
  add([](auto* e) {
    e->mutable_finished()->set_index(1);
    e->mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
    e->mutable_finished()->set_stop("!");
  });
  add([](auto* e) { e->mutable_summary()->mutable_usage()->set_completion_tokens(2); });
  EXPECT_EQ(response.request_id(), "r");
  ASSERT_EQ(response.choices_size(), 2);
  EXPECT_EQ(response.choices(1).text(), "ab");
  EXPECT_EQ(response.choices(1).token_ids_size(), 2);
  EXPECT_EQ(response.choices(1).stop(), "!");
  EXPECT_EQ(response.choices(0).index(), 0u);
  EXPECT_EQ(response.usage().completion_tokens(), 2u);
  EXPECT_FALSE(response.has_timing());
}

}  // namespace
}  // namespace dunlin::gateway
