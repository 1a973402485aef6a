#include "gateway/request_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/check.h"

namespace dunlin::gateway {
namespace {

struct CardRow {
  absl::string_view name_contains;  // of general.name in lower case
  absl::string_view architecture;
  SamplingDefaults defaults;
};

// Sampling that a model's own card recommends.
constexpr CardRow kCards[] = {
    {"smollm2", "llama", {.temperature = 0.2f, .top_p = 0.9f}},
};

void FillSampling(const SamplingDefaults& defaults, uint64_t random_seed, v1::Sampling* s) {
  if (!s->has_temperature()) s->set_temperature(defaults.temperature);
  if (!s->has_top_p()) s->set_top_p(defaults.top_p);
  if (!s->has_top_k()) s->set_top_k(0);
  if (!s->has_min_p()) s->set_min_p(0);
  if (!s->has_typical_p()) s->set_typical_p(1);
  if (!s->has_presence_penalty()) s->set_presence_penalty(0);
  if (!s->has_frequency_penalty()) s->set_frequency_penalty(0);
  if (!s->has_repetition_penalty()) s->set_repetition_penalty(1);
  if (!s->has_seed()) s->set_seed(random_seed);
  if (!s->has_n()) s->set_n(1);
}

}  // namespace

SamplingDefaults DefaultsForModel(absl::string_view general_name, absl::string_view architecture) {
  for (const CardRow& row : kCards) {
    if (row.architecture == architecture && absl::StrContains(absl::AsciiStrToLower(general_name), row.name_contains)) {
      return row.defaults;
    }
  }
  return SamplingDefaults();
}

RequestPlan MakePlan(const v1::GenerateRequest& request, const SamplingDefaults& defaults, uint64_t random_seed,
                     std::vector<uint32_t> prompt_ids, uint32_t context_tokens) {
  CHECK_GT(context_tokens, prompt_ids.size());
  const uint32_t left = context_tokens - static_cast<uint32_t>(prompt_ids.size());
  RequestPlan plan;
  plan.prompt_ids = std::move(prompt_ids);
  plan.sampling = request.sampling();
  FillSampling(defaults, random_seed, &plan.sampling);
  plan.stopping = request.stopping();
  plan.context_bounds_length = !request.stopping().has_max_tokens() || request.stopping().max_tokens() > left;
  if (plan.context_bounds_length) plan.stopping.set_max_tokens(left);
  plan.stopping.set_min_tokens(std::min(plan.stopping.min_tokens(), plan.stopping.max_tokens()));
  plan.stopping.set_ignore_eos(plan.stopping.ignore_eos());
  plan.stopping.set_include_stop(plan.stopping.include_stop());
  plan.output = request.output();
  plan.cache = request.cache();
  plan.speculation = request.speculation();
  plan.dry_run = request.dry_run();
  plan.num_choices = plan.sampling.n();
  return plan;
}

worker::v1::GenerateRequest ToWorkerRequest(const RequestPlan& plan, absl::Duration waited) {
  worker::v1::GenerateRequest request;
  request.set_request_id(plan.request_id);
  request.set_epoch(1);
  request.mutable_prompt_ids()->Add(plan.prompt_ids.begin(), plan.prompt_ids.end());
  *request.mutable_sampling() = plan.sampling;
  request.set_max_tokens(plan.stopping.max_tokens());
  request.set_min_tokens(plan.stopping.min_tokens());
  *request.mutable_stop_token_ids() = plan.stopping.stop_token_ids();
  request.set_ignore_eos(plan.stopping.ignore_eos());
  if (plan.output.has_logprobs()) request.set_logprobs(plan.output.logprobs());
  if (plan.output.has_prompt_logprobs()) request.set_prompt_logprobs(plan.output.prompt_logprobs());
  if (plan.stopping.has_max_time_ms()) {
    // At least a millisecond: the worker then reports the timely end itself, with its usage.
    const absl::Duration left =
        std::max(absl::Milliseconds(plan.stopping.max_time_ms()) - waited, absl::Milliseconds(1));
    absl::Duration rest;
    request.mutable_max_time()->set_seconds(absl::IDivDuration(left, absl::Seconds(1), &rest));
    request.mutable_max_time()->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(rest)));
  }
  request.set_cache_mode(plan.cache.mode());
  request.set_cache_namespace(CacheNamespace(plan.caller.tenant, plan.cache.salt()));
  request.set_tenant(plan.caller.tenant);
  request.set_priority(plan.caller.priority);
  if (plan.speculation.disable()) {
    request.set_max_draft_tokens(0);
  } else if (plan.speculation.has_max_draft_tokens()) {
    request.set_max_draft_tokens(plan.speculation.max_draft_tokens());
  }
  request.set_num_choices(plan.num_choices);
  return request;
}

}  // namespace dunlin::gateway
